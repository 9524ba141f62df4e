"""The methods that are compared: ours, two baselines without a network, and third-party ones.

Each takes low-resolution frames, f h w 3 uint8, and gives `scale` times the size and `interpolate`
times the rate: (f - 1) * interpolate + 1 frames. Every `interpolate`-th of these belongs to an
input frame.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.peers.methods import ENLARGERS, Method, cannot, enhance_file, load_method
from benchmarks.quality.clips import FINE_CRF, MAIN, QualityError, Setting, resize, write_h264
from benchmarks.quality.metrics import Frames, MetricError, ffmpeg_binary

PADDING_FRAMES = 4  # minterpolate looks ahead and swallows frames at both ends
MINTERPOLATE_RATE = 24


def bicubic_repeat(frames: Frames, scale: int = 4, interpolate: int = 2) -> Frames:
    """Enlarge by bicubic interpolation; the missing frames repeat the one before."""
    large = [resize(frame, scale, Image.Resampling.BICUBIC) for frame in frames]
    return np.repeat(np.stack(large), interpolate, axis=0)[: 1 - interpolate or None]


def minterpolate(frames: Frames, interpolate: int = 2) -> Frames:
    """Interpolate with ffmpeg's motion compensation; the input frames stay unchanged.

    The clip is extended by repeats of its first and last frames. The result is cut so that its
    every `interpolate`-th frame is closest to the input frames.
    """
    if interpolate == 1:
        return frames
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((PADDING_FRAMES, PADDING_FRAMES), (0, 0), (0, 0), (0, 0)), "edge")
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    command = [ffmpeg_binary(), "-v", "error", *raw, "-s", f"{width}x{height}"]
    command += ["-r", str(MINTERPOLATE_RATE), "-i", "-", "-vf"]
    command += [
        f"format=yuv444p,minterpolate=fps={MINTERPOLATE_RATE * interpolate}:mi_mode=mci",
        *raw,
        "-",
    ]
    done = subprocess.run(command, input=padded.tobytes(), capture_output=True)
    if done.returncode:
        raise MetricError(f"minterpolate failed: {done.stderr.decode().strip()[-200:]}")
    made = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return keep_inputs(made, frames, interpolate)


def keep_inputs(made: Frames, frames: Frames, interpolate: int) -> Frames:
    """Cut an interpolated clip to the span of the input frames, and put those in unchanged."""
    length = (len(frames) - 1) * interpolate + 1
    offsets = range(len(made) - length + 1)
    if not offsets:
        raise MetricError(f"{length} frames were to be made, got {len(made)}")
    inputs = frames.astype(np.int16)

    def distance(offset: int) -> float:
        placed = made[offset : offset + length : interpolate].astype(np.int16)
        return float(np.abs(placed - inputs).mean())

    best = min(offsets, key=distance)
    aligned = made[best : best + length].copy()
    aligned[::interpolate] = frames
    return aligned


def lanczos_minterpolate(frames: Frames, scale: int = 4, interpolate: int = 2) -> Frames:
    """Apply `minterpolate` at low resolution, then enlarge every frame by Lanczos."""
    return np.stack(
        [
            resize(frame, scale, Image.Resampling.LANCZOS)
            for frame in minterpolate(frames, interpolate)
        ]
    )


# --- ours, and all by name ------------------------------------------------------------------------


if TYPE_CHECKING:
    from venhancer.pipeline.run import Report

FILE_RATE = Fraction(12)  # of the files that are timed: seconds do not depend on it


def enhanced(
    frames: Frames, options: Mapping[str, Any], setting: Setting = MAIN
) -> tuple[Frames, Report]:
    """Return the frames that our enhancer makes, through folders of numbered PNGs."""
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
    """Choose methods by name, where the setting allows them; each maps low to full resolution."""
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
    """Measure seconds from a video file to a video file, loading included; None if not measured."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "in.mp4"), Path(scratch, "out.mp4")
        write_h264(source, low, FILE_RATE, FINE_CRF)
        started = time.perf_counter()
        if name == "nano":
            from venhancer import Options, enhance

            asked = {"scale": setting.scale, "interpolate": setting.interpolate, **options}
            enhance(source, target, Options(**asked))
        elif name == "rife-span" and setting.scale in (2, 4):
            enhance_file(source, target, setting.scale, setting.interpolate, peers)
        else:
            return None
        return time.perf_counter() - started
