"""The two things anyone can do without a network: what our enhancer has to beat.

Low-resolution frames in, f h w 3 uint8; frames at `scale` times the size and
`interpolate` times the rate out, so (f-1)*interpolate+1 frames, whose every
`interpolate`-th frame belongs to an input frame.
"""

from __future__ import annotations

import subprocess

import numpy as np
from PIL import Image

from benchmarks.metrics import Frames, MetricError, ffmpeg_binary

PADDING_FRAMES = 4  # minterpolate looks ahead and swallows frames at both ends
RATE = 24


def resize(frame: Frames, scale: float, kernel: Image.Resampling) -> Frames:
    """Resize one frame, antialiased when it gets smaller: h w 3 -> h*scale w*scale 3."""
    height, width = frame.shape[:2]
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, kernel))


def bicubic_repeat(frames: Frames, scale: int = 4, interpolate: int = 2) -> Frames:
    """Bicubic enlargement; the missing frames repeat the one before."""
    large = [resize(frame, scale, Image.Resampling.BICUBIC) for frame in frames]
    return np.repeat(np.stack(large), interpolate, axis=0)[: 1 - interpolate or None]


def minterpolate(frames: Frames, interpolate: int = 2) -> Frames:
    """ffmpeg's motion-compensated interpolation; the input frames stay as they are.

    The clip goes in with its first and last frames repeated, and the result is cut where
    its every `interpolate`-th frame is closest to the input frames.
    """
    if interpolate == 1:
        return frames
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((PADDING_FRAMES, PADDING_FRAMES), (0, 0), (0, 0), (0, 0)), "edge")
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    command = [ffmpeg_binary(), "-v", "error", *raw, "-s", f"{width}x{height}"]
    command += ["-r", str(RATE), "-i", "-", "-vf"]
    command += [f"format=yuv444p,minterpolate=fps={RATE * interpolate}:mi_mode=mci", *raw, "-"]
    done = subprocess.run(command, input=padded.tobytes(), capture_output=True)
    if done.returncode:
        raise MetricError(f"minterpolate failed: {done.stderr.decode().strip()[-200:]}")
    made = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return keep_inputs(made, frames, interpolate)


def keep_inputs(made: Frames, frames: Frames, interpolate: int) -> Frames:
    """Cut an interpolated clip to where the input frames lie, and put those in unchanged."""
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
    """`minterpolate` at low resolution, then Lanczos enlargement of every frame."""
    return np.stack(
        [
            resize(frame, scale, Image.Resampling.LANCZOS)
            for frame in minterpolate(frames, interpolate)
        ]
    )
