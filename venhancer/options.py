"""What a user may choose; whatever is left out comes from the preset or from the clip."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from venhancer.config import NewFrames, SolverName
from venhancer.errors import OptionError

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Kernels = Literal["auto", "torch", "triton"]
Padding = Literal["reflect", "white"]
GeometryRule = Literal["exact", "released"]
Join = Literal["blend", "cut"]
Mode = Literal["exact", "fast"]
GB = 1e9  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of one run; OptionError where a value cannot be carried out."""

    preset: str | None = None  # default: what `weights` says, else nano
    weights: Path | None = None

    scale: float | None = None  # 1 to 8; default: the preset's
    size: tuple[int, int] | None = None  # width, height, exactly; instead of `scale`
    interpolate: int | None = None  # 1 to 8 times as many frames; default 1
    fps: Fraction | None = None  # instead of `interpolate`
    new_frames: NewFrames | None = None  # `motion`: the model makes key frames only
    input_fps: Fraction | None = None  # of a folder of pictures; default 24

    refine: int | None = None  # noise_aug, 0 to 300: how much of the input's flaws to paint over
    detail: float | None = None  # s, 1 to 8: how degraded the model takes the input to be
    prompt: str = ""
    guidance: float | None = None  # 1 is none
    solver: SolverName | None = None
    steps: int | None = None
    eta: float | None = None  # 0: deterministic ODE, 1: SDE
    seed: int = 0

    mode: Mode = "exact"  # `fast`: the preset's shortcuts, where these three say nothing
    reuse: int | None = None  # 1 to 8 steps share the coarse features of one; exact: 1
    guidance_interval: tuple[int, int] | None = None  # timesteps at which it acts; exact: all

    device: Device = "auto"
    dtype: Dtype = "auto"
    kernels: Kernels = "auto"  # `triton`: near the frames of `torch`; auto: where measured faster
    window: int | None = None  # frames
    tile: tuple[int, int] | None = None  # width, height in pixels
    memory: float | None = None  # GB that a run may take; default: most of what is free
    join: Join = "blend"
    scene_cuts: bool = True  # windows end at cuts, and nothing is interpolated across them
    geometry: GeometryRule = "exact"  # `released`: that implementation's sizes, padding, whole s
    padding: Padding = "reflect"

    crf: int = 17
    codec: str = "libx264"
    overwrite: bool = False
    compare: Path | None = None  # side by side with plain bilinear: a video, or a .png

    def __post_init__(self) -> None:
        if self.scale is not None and self.size is not None:
            raise OptionError("scale and size are both given: take one")
        if self.interpolate is not None and self.fps is not None:
            raise OptionError("interpolate and fps are both given: take one")
        _check_range("scale", self.scale, 1, 8)
        _check_range("interpolate", self.interpolate, 1, 8)
        _check_range("refine", self.refine, 0, 300)
        _check_range("detail", self.detail, 1, 8)
        _check_range("guidance", self.guidance, 1, 50)
        _check_range("eta", self.eta, 0, 1)
        _check_range("crf", self.crf, 0, 51)
        _check_range("window", self.window, 2, 1000)
        _check_range("memory", self.memory, 0.1, 10_000)
        _check_range("reuse", self.reuse, 1, 8)
        low, high = self.guidance_interval or (0, 999)
        if not 0 <= low <= high <= 999:
            raise OptionError(f"guidance interval {low} to {high}: take 0 to 999, rising")


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise OptionError(f"{name}={value:g}: take a number from {low:g} to {high:g}")
