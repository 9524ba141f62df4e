"""Orientation of a frame, from the display matrix that phones write."""

import math
from typing import Any, cast

import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Read (a, b, c, d) of the display matrix: pixel (x, y) is shown at (ax+cy, bx+dy)."""
    try:
        side_data = cast(SideDataContainer, frame.side_data)  # its stub knows one key only
        data = bytes(side_data[SideDataType.DISPLAYMATRIX])
    except KeyError:
        return (1, 0, 0, 1)
    except ValueError:  # PyAV does not know some other side data of this frame, such as Exif
        cos, sin = (round(f(math.radians(frame.rotation))) for f in (math.cos, math.sin))
        return (cos, -sin, sin, cos)
    a, b, _, c, d, *_ = (int(n) for n in np.frombuffer(data, np.int32))
    return (a, b, c, d)


def is_transposed(matrix: tuple[int, int, int, int]) -> bool:
    """Tell whether the matrix swaps width and height (a quarter turn)."""
    return abs(matrix[1]) > abs(matrix[0])


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Return width and height as shown."""
    size = (frame.width, frame.height)
    return size[::-1] if is_transposed(display_matrix(frame)) else size


def turn_upright(image: NDArray[Any], matrix: tuple[int, int, int, int]) -> NDArray[Any]:
    """Apply the nearest of the eight orientations. image: H W ... -> H W ... or W H ..."""
    a, b, c, d = matrix
    right, down = a, d
    if is_transposed(matrix):
        image, right, down = image.swapaxes(0, 1), c, b
    if right < 0:
        image = image[:, ::-1]
    return image[::-1] if down < 0 else image
