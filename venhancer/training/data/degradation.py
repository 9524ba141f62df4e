"""Flaws that real clips have before they are enhanced: compression, noise, blur, banding.

One number sets their strength, the noise level of `--refine` (0 to 300): 100 is about ten grey
levels of noise, or H.264 at crf 36. A model that gets the level as input learns how much to repair.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

Frames: TypeAlias = list[NDArray[np.uint8]]  # H W 3 each, all of one size
Generator: TypeAlias = np.random.Generator
Flaw: TypeAlias = Callable[[Frames, float, Generator], Frames]  # frames, level / 100

CRF = (18, 40)
JPEG_QUALITY = (20, 95)
LEAST_CODED = 64  # pixels a side: the largest block of H.265
MIXED_SHARE = 0.35  # of clips that get a second, weaker flaw


def degrade(frames: Frames, level: int, rng: Generator) -> Frames:
    """Add one kind of flaw, sometimes two, about as strong as `level` says; 0 adds none."""
    if level == 0:
        return frames
    kinds = rng.choice(len(FLAWS), 2, replace=False, p=_SHARES)
    flawed = FLAWS[kinds[0]][0](frames, level / 100, rng)
    if rng.random() < MIXED_SHARE:
        flawed = FLAWS[kinds[1]][0](flawed, level / 200, rng)
    return flawed


def noisy(frames: Frames, strength: float, rng: Generator) -> Frames:
    """Add sensor noise, new in each frame: white or slightly blurred, in luma or each colour."""
    spread = 10 * strength * rng.uniform(0.6, 1.3)
    channels, blur = (1, 3)[int(rng.integers(2))], float(rng.choice([0.0, 0.0, 0.6]))
    return [_clipped(f + _grain(f.shape, channels, spread, blur, rng)) for f in frames]


def _grain(
    shape: tuple[int, ...], channels: int, spread: float, blur: float, rng: Generator
) -> NDArray[np.float32]:
    grain = rng.standard_normal((*shape[:2], channels), dtype=np.float32)
    if blur:
        soft = np.atleast_3d(cv2.GaussianBlur(grain, (0, 0), blur))
        grain = np.asarray(soft / max(float(soft.std()), 1e-6), np.float32)
    return np.asarray(spread * grain, np.float32)


def h264(frames: Frames, strength: float, rng: Generator) -> Frames:
    """Encode with x264 and decode again."""
    return recode(frames, "libx264", _crf(strength, rng))


def h265(frames: Frames, strength: float, rng: Generator) -> Frames:
    """Encode with x265 and decode again."""
    return recode(frames, "libx265", _crf(strength, rng))


def _crf(strength: float, rng: Generator) -> int:
    return int(np.clip(round(18 + 18 * strength * rng.uniform(0.7, 1.2)), *CRF))


def jpeg(frames: Frames, strength: float, rng: Generator) -> Frames:
    """Encode each frame as a JPEG and decode it again."""
    quality = int(np.clip(95 - 55 * strength * rng.uniform(0.6, 1.2), *JPEG_QUALITY))
    return [_through_jpeg(frame, quality) for frame in frames]


def _through_jpeg(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    done, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])


def blurred(frames: Frames, strength: float, rng: Generator) -> Frames:
    """Blur slightly, as if out of focus."""
    spread = min(0.4 + 0.5 * strength * rng.uniform(0.5, 1.0), 1.2)  # below 0.4 nothing is seen
    return [np.asarray(cv2.GaussianBlur(frame, (0, 0), spread), np.uint8) for frame in frames]


def banded(frames: Frames, strength: float, rng: Generator) -> Frames:
    """Reduce the number of brightness levels."""
    step = 1 + 8 * strength * rng.uniform(0.4, 1.2)
    return [_clipped((np.floor(frame / step) + 0.5) * step) for frame in frames]


FLAWS: Sequence[tuple[Flaw, float]] = (
    (noisy, 0.3),
    (h264, 0.25),
    (h265, 0.13),
    (jpeg, 0.14),
    (blurred, 0.12),
    (banded, 0.06),
)
_SHARES = [share for _, share in FLAWS]


def _clipped(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def recode(frames: Frames, codec: str, crf: int) -> Frames:
    """Encode with a video encoder and decode again, padded to a size that is safe for all.

    x265 corrupts the heap if a frame is not a multiple of its blocks, or smaller than one.
    """
    height, width = frames[0].shape[:2]
    below, right = (max(LEAST_CODED, -(-size // 16) * 16) - size for size in (height, width))
    even = [np.pad(f, ((0, below), (0, right), (0, 0)), mode="edge") for f in frames]
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(codec, Fraction(12))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = even[0].shape[1], even[0].shape[0], "yuv420p"
        stream.thread_count = 1
        quiet = {"x265-params": "log-level=none:pools=none:frame-threads=1"}
        stream.options = {"crf": str(crf), **(quiet if codec == "libx265" else {})}
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as encoded:
        made = [frame.to_ndarray(format="rgb24") for frame in encoded.decode(video=0)]
    return [np.ascontiguousarray(frame[:height, :width]) for frame in made]
