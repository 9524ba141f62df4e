"""Planes of a frame as arrays, and components of one depth as those of another."""

from typing import Any

import numpy as np
from av.video.plane import VideoPlane
from numpy.typing import DTypeLike, NDArray


def type_of(depth: int) -> np.dtype[Any]:
    """Return the type that holds components of `depth` bits: uint8 or uint16."""
    return np.dtype(np.uint8 if depth <= 8 else np.uint16)


def view(plane: VideoPlane, depth: int) -> NDArray[Any]:
    """View a plane as h w, without the padding of its lines; writing changes the frame."""
    data: Any = plane  # PyAV's stub does not call it a buffer
    return np.frombuffer(data, type_of(depth)).reshape(plane.height, -1)[:, : plane.width]


def scaled(values: NDArray[Any], largest: float, goal: int, kind: DTypeLike) -> NDArray[Any]:
    """Map values from 0 to `largest` onto 0 to `goal`, rounded and clipped, in an integer type."""
    if values.dtype == kind and largest == goal:
        return values
    made = values * np.float32(goal / largest)
    return np.asarray(np.clip(np.rint(made, out=made), 0, goal, out=made).astype(kind))
