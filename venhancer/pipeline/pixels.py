"""Operations on pixels before and after the network: resize, pad, crop, round."""

from __future__ import annotations

from functools import cache
from typing import TypeAlias, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from venhancer.config import Upsampling
from venhancer.device import to_device
from venhancer.options import Padding
from venhancer.planning.geometry import Geometry
from venhancer.video.colour import Picture

Frame: TypeAlias = Picture  # H W 3


def resize(
    frame: Frame,
    width: int,
    height: int,
    upsampling: Upsampling = "bilinear",
    device: str = "cpu",
) -> Tensor:
    """Enlarge as the model was trained: H W 3, uint8 or uint16 -> 1 3 height width in [-1, 1].

    Only the bytes are copied to the device, which does the rest.
    """
    given = to_device(torch.from_numpy(np.ascontiguousarray(frame)), device)
    pixels, size, middle = given.permute(2, 0, 1)[None].float(), (height, width), largest(frame) / 2
    return F.interpolate(pixels, size, mode=upsampling, align_corners=False) / middle - 1


def pad(frames: Tensor, geometry: Geometry, padding: Padding) -> Tensor:
    """Pad f 3 H W to the size that the network takes, by reflection or with white."""
    sides = (geometry.left, geometry.right, geometry.top, geometry.bottom)
    if not any(sides):
        return frames
    if padding == "white":
        return F.pad(frames, sides, value=1.0)
    h, w = frames.shape[-2:]
    device = str(frames.device)
    rows = _reflected(h, geometry.top, geometry.bottom, device)
    columns = _reflected(w, geometry.left, geometry.right, device)
    return frames.index_select(2, rows).index_select(3, columns)


@cache
def _reflected(size: int, before: int, after: int, device: str) -> Tensor:
    """Compute the source index of each padded position; small frames are reflected repeatedly."""
    indices = np.pad(np.arange(size), (before, after), mode="symmetric")
    return torch.from_numpy(indices).to(device)


def crop(frames: Tensor, geometry: Geometry) -> Tensor:
    """Undo `pad`: f 3 H W of the padded size -> the exact output size."""
    return frames[
        :,
        :,
        geometry.top : geometry.top + geometry.height,
        geometry.left : geometry.left + geometry.width,
    ]


@overload
def to_pixels(frames: Tensor) -> NDArray[np.uint8]: ...


@overload
def to_pixels(frames: Tensor, frame_type: DTypeLike) -> Frame: ...


def to_pixels(frames: Tensor, frame_type: DTypeLike = np.uint8) -> Frame:
    """Round f 3 H W in [-1, 1] to f H W 3, on the device; copy the bytes to the host.

    frame_type: uint8, or uint16 over its whole range
    """
    kind = np.dtype(frame_type)
    top = np.iinfo(kind).max
    rounded = ((frames.float() + 1) * (top / 2)).round_().clamp_(0, top)
    pixels = rounded.to(getattr(torch, kind.name))
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def largest(frame: Frame) -> int:
    """Return the largest value that the frame's type holds."""
    return np.iinfo(frame.dtype).max
