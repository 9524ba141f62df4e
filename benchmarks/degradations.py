"""Flaws that are put into frames before they are enhanced: noise and compression."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.metrics import Frames

NOISE = 10.0  # grey levels: the spread of the Gaussian noise
CRF = 36  # of x264: coarse blocks, as in clips that were sent on
FINE_CRF = 4  # where a file is needed and no flaw is meant

Degradation = Callable[[Frames, Fraction], Frames]  # frames, and how many a second


def noisy(frames: Frames) -> Frames:
    """Gaussian noise of `NOISE` grey levels added to every frame, always the same."""
    noise = np.random.default_rng(0).normal(0, NOISE, frames.shape)
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


def write_h264(target: Path | io.BytesIO, frames: Frames, rate: Fraction, crf: int) -> None:
    """An mp4 file by x264, in 4:2:0, so that sides have to be even."""
    height, width = frames.shape[1:3]
    place = target if isinstance(target, io.BytesIO) else str(target)
    with av.open(place, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def compressed(frames: Frames, rate: Fraction, crf: int = CRF) -> Frames:
    """The frames after H.264 of that quality."""
    file = io.BytesIO()
    write_h264(file, frames, rate, crf)
    file.seek(0)
    with av.open(file, "r") as container:
        decoded = container.decode(container.streams.video[0])
        return np.stack([np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in decoded])


DEGRADATIONS: Mapping[str, Degradation] = {
    "noise": lambda frames, rate: noisy(frames),
    "h264": compressed,
}
