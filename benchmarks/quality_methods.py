"""The methods that `quality` compares: ours, two baselines, and networks of others."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks import peers as peer_files
from benchmarks.baselines import bicubic_repeat, lanczos_minterpolate
from benchmarks.degradations import FINE_CRF, write_h264
from benchmarks.metrics import Frames
from benchmarks.peer_methods import ENLARGERS, Method, cannot, load_method
from benchmarks.quality_clips import MAIN, QualityError, Setting

if TYPE_CHECKING:
    from venhancer.pipeline.run import Report

RATE = Fraction(12)  # of the files that are timed: seconds do not depend on it


def enhanced(
    frames: Frames, options: Mapping[str, Any], setting: Setting = MAIN
) -> tuple[Frames, Report]:
    """The frames that our enhancer makes, through folders of numbered PNGs."""
    from venhancer import Options, enhance  # late: the baselines need no network

    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "in"), Path(scratch, "out")
        source.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(source / f"{index:05d}.png", compress_level=1)
        asked = {"scale": setting.scale, "interpolate": setting.interpolate, **options}
        report = enhance(source, target, Options(**asked))
        made = [
            np.asarray(Image.open(path).convert("RGB")) for path in sorted(target.glob("*.png"))
        ]
    if not made:
        raise QualityError("nano wrote no frames")
    return np.stack(made), report


def choose_methods(
    names: Sequence[str], options: Mapping[str, Any], peers: Path, setting: Setting = MAIN
) -> dict[str, Method]:
    """Those asked by name that the setting allows, each from low-resolution frames to full ones."""
    scale, interpolate = setting.scale, setting.interpolate
    own: dict[str, Method] = {
        "bicubic": lambda frames: bicubic_repeat(frames, scale, interpolate),
        "lanczos-minterpolate": lambda frames: lanczos_minterpolate(frames, scale, interpolate),
        "nano": lambda frames: enhanced(frames, options, setting)[0],
    }
    unknown = sorted(set(names) - {*own, *ENLARGERS})
    if unknown:
        known = ", ".join((*own, *ENLARGERS))
        raise QualityError(f"no method {', '.join(unknown)}: there are {known}")
    able = [name for name in names if name in own or not cannot(name, scale)]
    return {
        name: own[name] if name in own else load_method(name, peers, scale, interpolate)
        for name in able
    }


def file_seconds(
    name: str, low: Frames, options: Mapping[str, Any], peers: Path, setting: Setting
) -> float | None:
    """Seconds from a video file to a video file, loading included; None where not measured."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "in.mp4"), Path(scratch, "out.mp4")
        write_h264(source, low, RATE, FINE_CRF)
        started = time.perf_counter()
        if name == "nano":
            from venhancer import Options, enhance

            asked = {"scale": setting.scale, "interpolate": setting.interpolate, **options}
            enhance(source, target, Options(**asked))
        elif name == "rife-span" and setting.scale in (2, 4):
            peer_files.enhance(source, target, setting.scale, setting.interpolate, peers)
        else:
            return None
        return time.perf_counter() - started
