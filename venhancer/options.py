"""Options of a run; those that are left out come from the preset or from the clip.

An option is one field of `Options`. The command line, its help, the range check, the options that a
bundle settles and those that a job compares are derived from the field and its metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from venhancer.config import ColorFix, NewFrames, SolverName
from venhancer.errors import OptionError

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Kernels = Literal["auto", "torch", "triton"]
Padding = Literal["reflect", "white"]
GeometryRule = Literal["exact", "released"]
Join = Literal["blend", "cut"]
Mode = Literal["exact", "fast"]
Deinterlace = Literal["auto", "off", "double"]
HDRMode = Literal["keep", "sdr"]
Alpha = Literal["auto", "black"]
Audio = Literal["copy", "aac", "none"]
Speed = Literal["fast", "medium", "slow"]
GB = 1e9  # bytes
FOLDER_FPS = Fraction(24)  # of a folder of pictures, where the user names no rate

INPUT = "what is read"
OUTPUT = "what comes out"
MODEL = "how the model works"
SHORTCUTS = "what makes it faster, with other frames"
PLACE = "where it runs"

NTSC = {
    "23.976": "24000/1001",
    "29.97": "30000/1001",
    "59.94": "60000/1001",
    "119.88": "120000/1001",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLimits:
    """Largest input that is decoded. A service sets lower limits for files of others."""

    pixels: int = 1 << 28  # of a frame
    frames: int | None = None  # of a clip; None: no limit


USUAL_LIMITS = InputLimits()


def parse_size(text: str) -> tuple[int, int]:
    """Read a size such as 1280x720."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise OptionError(f"{text!r} is no size: write 1280x720")
    return int(width), int(height)


def parse_interval(text: str) -> tuple[int, int]:
    """Read an interval of timesteps such as 200:800."""
    low, _, high = text.partition(":")
    if not (low.isdigit() and high.isdigit()):
        raise OptionError(f"{text!r} is no interval of timesteps: write 200:800")
    return int(low), int(high)


def parse_rate(text: str) -> Fraction:
    """Read a rational rate; the usual decimals mean the exact NTSC rates."""
    try:
        rate = Fraction(NTSC.get(text, text))
    except (ValueError, ZeroDivisionError) as error:
        raise OptionError(f"{text!r} is no rate: write 60 or 24000/1001") from error
    if rate <= 0:
        raise OptionError(f"a rate of {text} shows nothing: write 60 or 24000/1001")
    return rate


def _option(  # noqa: PLR0913  one call per option, all by name
    default: Any,
    group: str,
    help: str,
    *,
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    flag: str | None = None,
    range: tuple[float, float] | None = None,
    is_settled_by_bundle: bool = False,
    is_compared: bool = False,
    is_about_target: bool = False,
) -> Any:
    """Describe one option.

    flag: if it is not `--` and the field's name; parse: reads values that are of no plain type
    is_compared: a job goes on only with the same value; for values that the plan does not hold
    is_about_target: left out of commands that write no output
    """
    told: dict[str, Any] = {"group": group, "help": help, "metavar": metavar}
    told |= {"parse": parse, "flag": flag, "range": range}
    told |= {"is_settled_by_bundle": is_settled_by_bundle, "is_compared": is_compared}
    return field(default=default, metadata={**told, "is_about_target": is_about_target})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of one run; OptionError for a value that cannot be carried out."""

    scale: float | None = _option(None, OUTPUT, "1 to 8 times the size (default 4)", range=(1, 8))
    size: tuple[int, int] | None = _option(
        None, OUTPUT, "exactly this size, instead of --scale", metavar="WxH", parse=parse_size
    )
    interpolate: int | None = _option(
        None, OUTPUT, "1 to 8 times the frames (default 1)", metavar="N", range=(1, 8)
    )
    fps: Fraction | None = _option(
        None,
        OUTPUT,
        "exactly this rate, instead of --interpolate: 60, 23.976, 24000/1001",
        parse=parse_rate,
    )
    new_frames: NewFrames | None = _option(
        None,
        OUTPUT,
        "what makes the frames between: the model, or motion from the model's key frames",
    )
    even: bool = _option(
        False, OUTPUT, "make the width and height even, which every player can show"
    )
    crf: int = _option(
        17, OUTPUT, "quality of the file, lower is better (default 17)", range=(0, 51)
    )
    codec: str | None = _option(
        None,
        OUTPUT,
        "encoder (default libx264; libx265 for more than 8 bits; where there is alpha, prores_ks "
        "in .mov and ffv1 in .mkv)",
    )
    pixel_format: str | None = _option(
        None, OUTPUT, "pixel format of the file, such as yuv420p10le (default: what fits the input)"
    )
    preset_speed: Speed = _option(
        "medium", OUTPUT, "speed of the encoder; slow makes smaller files (default medium)"
    )
    audio: Audio = _option(
        "copy",
        OUTPUT,
        "sound as it is (copy; what the output cannot hold becomes AAC), all as AAC, or none",
    )
    overwrite: bool = _option(False, OUTPUT, "replace an existing output", is_about_target=True)
    compare: Path | None = _option(
        None,
        OUTPUT,
        "also write input and result side by side: video or .png",
        metavar="FILE",
        is_about_target=True,
    )

    input_fps: Fraction | None = _option(
        None, INPUT, "rate of a folder of pictures (default 24)", parse=parse_rate
    )
    stream: int | None = _option(
        None,
        INPUT,
        "video stream to take, as `info` numbers them (default: the file's default, or largest)",
        metavar="N",
        range=(0, 1000),
        is_compared=True,
    )
    deinterlace: Deinterlace = _option(
        "auto",
        INPUT,
        "deinterlace frames that are interlaced (auto), or each field to a frame (double)",
        is_compared=True,
    )
    hdr: HDRMode = _option(
        "keep", INPUT, "keep HDR as it is, or tone-map it to SDR (default keep)", is_compared=True
    )
    alpha: Alpha = _option(
        "auto",
        INPUT,
        "keep alpha where the output can hold it (auto), else put the picture over black",
        is_compared=True,
    )

    preset: str | None = _option(
        None, MODEL, "nano (built in, default) or released", is_settled_by_bundle=True
    )
    weights: Path | None = _option(
        None, MODEL, "a checkpoint; ours carry their preset", is_settled_by_bundle=True
    )
    prompt: str = _option(
        "", MODEL, "what the video shows (presets with a text encoder)", is_compared=True
    )
    refine: int | None = _option(
        None, MODEL, "0 to 300: how much of the flaws to paint over (noise_aug)", range=(0, 300)
    )
    detail: float | None = _option(
        None,
        MODEL,
        "1 to 8: detail to invent, the degradation s that the model is told (default: the scale)",
        range=(1, 8),
    )
    steps: int | None = _option(None, MODEL, "steps of the solver")
    solver: SolverName | None = _option(None, MODEL, "spacing of the steps")
    eta: float | None = _option(
        None, MODEL, "0: deterministic solver (ODE), 1: fresh noise each step (SDE)", range=(0, 1)
    )
    guidance: float | None = _option(
        None, MODEL, "strength of the prompt; 1 is none", range=(1, 50)
    )
    seed: int = _option(0, MODEL, "same seed, same frames (default 0)")
    geometry: GeometryRule = _option(
        "exact",
        MODEL,
        "sizes as asked (exact), or the sizes, padding and whole s of the released code",
        is_settled_by_bundle=True,
    )
    padding: Padding = _option(
        "reflect", MODEL, "what fills the padding of the frame (default reflect)", is_compared=True
    )

    color_fix: ColorFix | None = _option(
        None,
        MODEL,
        "take the colours of the input: its low frequencies (wavelet), or its mean and spread in "
        "RGB (adain) or CIELAB (lab)",
        is_compared=True,
    )

    mode: Mode = _option(
        "exact",
        SHORTCUTS,
        "fast: the preset's steps, reuse and guidance interval for speed (default exact)",
    )
    reuse: int | None = _option(
        None,
        SHORTCUTS,
        "N steps share the coarse features of one",
        metavar="N",
        range=(1, 8),
        is_settled_by_bundle=True,
    )
    guidance_interval: tuple[int, int] | None = _option(
        None, SHORTCUTS, "guide at these timesteps only", metavar="LOW:HIGH", parse=parse_interval
    )

    device: Device = _option("auto", PLACE, "device that computes (default auto)")
    dtype: Dtype = _option(
        "auto", PLACE, "precision of the computation (default auto)", is_settled_by_bundle=True
    )
    kernels: Kernels = _option(
        "auto",
        PLACE,
        "what computes the network's layers (default auto: what was measured to be faster)",
        is_settled_by_bundle=True,
    )
    window: int | None = _option(
        None,
        PLACE,
        "frames that the model sees at a time",
        range=(2, 1000),
        is_settled_by_bundle=True,
    )
    tile: tuple[int, int] | None = _option(
        None,
        PLACE,
        "pixels that the model sees at a time",
        metavar="WxH",
        parse=parse_size,
        is_settled_by_bundle=True,
    )
    memory: float | None = _option(
        None,
        PLACE,
        "memory that the run may take (default: most of what is free)",
        metavar="GB",
        range=(0.1, 10_000),
    )
    scene_cuts: bool = _option(
        True, PLACE, "interpolate across cuts", flag="--no-scene-cuts"
    )  # windows end at cuts

    limits: InputLimits = USUAL_LIMITS  # of the input
    join: Join = "blend"  # how windows and tiles meet; `cut` is the released code's, for parity

    def __post_init__(self) -> None:
        if self.scale is not None and self.size is not None:
            raise OptionError("scale and size are both given: take one")
        if self.even and self.size is not None:
            raise OptionError("even and size are both given: write an even size")
        if self.interpolate is not None and self.fps is not None:
            raise OptionError("interpolate and fps are both given: take one")
        for option in fields(self):
            _check_range(option, getattr(self, option.name))
        low, high = self.guidance_interval or (0, 999)
        if not 0 <= low <= high <= 999:
            raise OptionError(f"guidance interval {low} to {high}: take 0 to 999, rising")

    def given(self) -> dict[str, Any]:
        """Collect the options that are not at their defaults, by name."""
        own = {option.name: getattr(self, option.name) for option in fields(self)}
        return {o.name: own[o.name] for o in fields(self) if own[o.name] != o.default}


def flag_of(option: Field[Any]) -> str:
    """Return the option's name on the command line."""
    return option.metadata["flag"] or f"--{option.name.replace('_', '-')}"


def marked(mark: str) -> list[Field[Any]]:
    """List the options whose metadata sets `mark`."""
    return [option for option in fields(Options) if option.metadata.get(mark)]


def _check_range(option: Field[Any], value: float | None) -> None:
    allowed = option.metadata.get("range")
    if allowed is None or value is None:
        return
    low, high = allowed
    if not low <= value <= high:
        raise OptionError(f"{option.name}={value:g}: take a number from {low:g} to {high:g}")
