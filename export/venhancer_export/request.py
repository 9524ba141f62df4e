"""The request for a bundle, checked before anything is built."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import venhancer
from venhancer.config import PRESETS, ModelConfig, Preset
from venhancer.contract import OPSET, Precision, Shape
from venhancer.errors import OptionError, WeightsError
from venhancer.files import hash_file, hash_text
from venhancer.planning.geometry import fit
from venhancer.weights.checkpoint import find_weights, read_preset
from venhancer_export.engines.builder import open_builder
from venhancer_export.engines.targets import Target, find_target

# windows, in frames. SHORTEST: two key frames at eight times the frame rate. SHORTEST_FLAT: two, as
# a flat model processes frames one by one, and new frames are made by motion. LONGEST: the longest
# that was considered
SHORTEST, SHORTEST_FLAT, LONGEST = 9, 2, 129
LARGEST_SIDE = 4096
MOST_WORKSPACE = 1024  # GiB


@dataclass(frozen=True, kw_only=True)
class Request:
    """One bundle to build."""

    preset: Preset
    weights: Path
    shapes: tuple[Shape, ...]
    precision: Precision
    builder: str  # "onnx", "tensorrt" or "tensorrt-rtx"
    targets: tuple[Target, ...] = ()
    workspace_gib: float | None = None

    @cached_property
    def checkpoint_sha256(self) -> str:
        return hash_file(self.weights)

    def key(self, builder_version: str, sources: dict[str, str]) -> str:
        """Hash all that decides the bundle; sources: hashes of codec and text encoder."""
        asked: dict[str, Any] = {
            "preset": dataclasses.asdict(self.preset),
            "checkpoint": self.checkpoint_sha256,
            "shapes": [str(shape) for shape in self.shapes],
            "precision": self.precision,
            "builder": [self.builder, builder_version],
            "gpus": [target.name for target in self.targets],
            "workspace_gib": self.workspace_gib,
            "opset": OPSET,
            "venhancer": venhancer.__version__,
            "sources": sources,
        }
        return hash_text(json.dumps(asked, sort_keys=True))


def make_request(  # noqa: PLR0913 (one for each option of the command)
    *,
    preset: str | None,
    weights: Path | None,
    sizes: Sequence[tuple[int, int]],
    windows: Sequence[int] | None = None,
    gpus: Sequence[str] = (),
    builder: str = "auto",
    precision: Precision | None = None,
    workspace_gib: float | None = None,
) -> Request:
    """Fill in defaults and check; OptionError or WeightsError for what cannot be built.

    sizes: (width, height) of the enhanced video, or of its tiles; each pair of size and window
    makes a shape
    """
    chosen = _preset(preset, weights)
    found = find_weights(chosen, weights)
    chosen = read_preset(found) or chosen
    windows = windows or [chosen.defaults.window]
    for size in sizes:
        _check_size(chosen.model, *size)
    for window in windows:
        _check_window(chosen.model, window)
    if workspace_gib is not None and not 0 < workspace_gib <= MOST_WORKSPACE:
        raise OptionError(f"--max-workspace {workspace_gib:g}: take GiB, to {MOST_WORKSPACE}")
    builder, targets = _builder(builder, gpus)
    shapes = [Shape(width=w, height=h, window=f) for w, h in sizes for f in windows]
    return Request(
        preset=chosen,
        weights=found,
        shapes=tuple(dict.fromkeys(shapes)),
        precision=precision or ("float32" if builder == "onnx" else "float16"),
        builder=builder,
        targets=targets,
        workspace_gib=workspace_gib,
    )


def _preset(name: str | None, weights: Path | None) -> Preset:
    """Find the preset asked for, or the checkpoint's; WeightsError if they differ."""
    carried = read_preset(weights) if weights is not None and weights.is_file() else None
    if carried is not None and name in (None, carried.name):
        return carried
    if carried is not None:
        raise WeightsError(
            f"{weights} carries preset {carried.name!r}, not {name!r}: "
            f"pass --preset {carried.name}, or other --weights"
        )
    name = name or "nano"
    if name not in PRESETS:
        raise OptionError(f"preset {name!r} is unknown: take {', '.join(PRESETS)}")
    return PRESETS[name]


def _builder(asked: str, gpus: Sequence[str]) -> tuple[str, tuple[Target, ...]]:
    """Find the builder's name and its targets; the default is this machine's GPU."""
    if asked == "onnx" and gpus:
        raise OptionError(f"--gpu {gpus[0]}: ONNX graphs are for any GPU; leave --gpu out")
    if asked == "onnx" or (asked == "auto" and not gpus and not torch.cuda.is_available()):
        return "onnx", ()
    found = {target.name: target for target in map(find_target, gpus or ["this"])}
    targets = tuple(found[name] for name in sorted(found))
    return open_builder(asked, targets).name, targets


def _check_size(model: ModelConfig, width: int, height: int) -> None:
    """Raise OptionError, with the nearest sizes, for a size that needs padding."""
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise OptionError(f"--size {width}x{height}: take a width and height to {LARGEST_SIDE}")
    up = fit(width, height, model)
    larger = (up.padded_width, up.padded_height)
    if larger == (width, height):
        return
    step = model.latent_stride * model.unet.size_step
    smaller = [x - step if x > y else x for x, y in zip(larger, (width, height), strict=True)]
    nearest = [f"{larger[0]}x{larger[1]}"]
    if min(smaller) >= step:
        nearest.insert(0, f"{smaller[0]}x{smaller[1]}")
    rows = model.latent_stride * model.unet.row_remainder
    rule = f"{step} n + {rows}" if rows else f"{step} n"
    raise OptionError(
        f"--size {width}x{height}: this model takes widths {step} n and heights {rule}; "
        f"the nearest are {' and '.join(nearest)}"
    )


def _check_window(model: ModelConfig, window: int) -> None:
    """Raise OptionError, with the nearest window, for a window that is too short or too long."""
    is_flat = model.unet.body == "flat"
    shortest = SHORTEST_FLAT if is_flat else SHORTEST
    if shortest <= window <= LONGEST:
        return
    nearest = shortest if window < shortest else LONGEST
    advice = "" if is_flat else "; 25 or 49 suits 2, 3, 4, 6 and 8 times the frames"
    raise OptionError(
        f"--window {window}: take {shortest} to {LONGEST} frames, here {nearest}{advice}"
    )
