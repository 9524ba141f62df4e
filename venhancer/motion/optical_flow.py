"""Optical flow on the host: where pixels move from one frame to another, and how far to trust it.

A flow (H W 2, float32, pixels) maps the pixels of one frame to another frame: second(p + flow(p))
shows what first(p) shows. It is computed by OpenCV's DIS (Kroeger et al. 2016, "Fast Optical Flow
using Dense Inverse Search").
"""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from venhancer.video.colour import Picture

Frame: TypeAlias = Picture  # H W 3
Field: TypeAlias = NDArray[np.float32]  # H W, or H W and channels

SMALLEST = 16  # pixels a side, below which DIS finds no patch
TOLERANCE = (0.02, 0.5)  # allowed difference: share of squared length, squared pixels

_one_thread = Lock()


def flow(first: Frame, second: Frame) -> Field:
    """Compute the motion from `first` to `second`: H W 3 each -> H W 2.

    OpenCV divides the work into one stripe per thread, and the result depends on the division. So
    the flow runs on one thread, however many the process uses otherwise.
    """
    height, width = first.shape[:2]
    pair = [_grey(frame) for frame in (first, second)]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    with _one_thread:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            found = search.calc(*pair, None)  # type: ignore[call-overload]
        finally:
            cv2.setNumThreads(threads)
    return np.ascontiguousarray(found[:height, :width], dtype=np.float32)


def _grey(frame: Frame) -> NDArray[np.uint8]:
    """Convert to luma in 8 bits, padded to at least `SMALLEST` a side: H W 3 -> H W."""
    shallow = frame if frame.dtype == np.uint8 else (frame >> 8).astype(np.uint8)
    grey = cv2.cvtColor(shallow, cv2.COLOR_RGB2GRAY)
    below, right = (max(0, SMALLEST - size) for size in grey.shape)
    if below or right:
        grey = cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return np.asarray(grey, dtype=np.uint8)


def warp(image: NDArray[Any], motion: Field, *, is_cubic: bool = False) -> Field:
    """Fetch every pixel from where it moved to: out(p) = image(p + motion(p)), float32.

    Outside, the border pixels are repeated. Cubic values may slightly exceed the range of `image`.
    """
    height, width = motion.shape[:2]
    columns = np.arange(width, dtype=np.float32) + motion[..., 0]
    rows = np.arange(height, dtype=np.float32)[:, None] + motion[..., 1]
    kernel = cv2.INTER_CUBIC if is_cubic else cv2.INTER_LINEAR
    source = np.asarray(image, dtype=np.float32)
    moved = cv2.remap(source, columns, rows, kernel, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.float32)


def compose(first: Field, then: Field) -> Field:
    """Compose two motions: from a first frame to a second, and from there to a third."""
    return first + warp(then, first)


def is_inside(motion: Field) -> NDArray[np.bool_]:
    """Tell which pixels stay within the frame: H W."""
    height, width = motion.shape[:2]
    columns = np.arange(width, dtype=np.float32) + motion[..., 0]
    rows = np.arange(height, dtype=np.float32)[:, None] + motion[..., 1]
    within = (columns >= -0.5) & (columns <= width - 0.5) & (rows >= -0.5) & (rows <= height - 0.5)
    return np.asarray(within, dtype=np.bool_)


def trust(motion: Field, backward: Field) -> Field:
    """Rate a motion by its way back: 1 where that returns to its start, down to 0: H W.

    backward: the flow back from the frame that `motion` leads to
    """
    return agreement(warp(backward, motion), -motion) * is_inside(motion)


def agreement(found: Field, expected: Field) -> Field:
    """Compare two motions, relative to their length: 1 for equal ones, falling to 0: H W."""
    share, least = TOLERANCE
    missed = _squared_length(found - expected)
    allowed = share * _squared_length(expected) + least
    return np.asarray(np.exp(-missed / allowed), dtype=np.float32)


def _squared_length(motion: Field) -> Field:
    right, down = motion[..., 0], motion[..., 1]
    return np.asarray(right * right + down * down, dtype=np.float32)
