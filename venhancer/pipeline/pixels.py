"""Operations on pixels before and after the network: resize, pad, crop, round."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from venhancer.config import Upsampling
from venhancer.device import to_device
from venhancer.options import Padding
from venhancer.planning.geometry import Geometry

Frame = NDArray[np.uint8]  # H W 3


def resize(
    frame: Frame,
    width: int,
    height: int,
    upsampling: Upsampling = "bilinear",
    device: str = "cpu",
) -> Tensor:
    """Enlarge as the model was trained: H W 3, uint8 -> 1 3 height width in [-1, 1].

    Only the bytes are copied to the device, which does the rest.
    """
    given = to_device(torch.from_numpy(np.ascontiguousarray(frame)), device)
    pixels, size = given.permute(2, 0, 1)[None].float(), (height, width)
    return F.interpolate(pixels, size, mode=upsampling, align_corners=False) / 127.5 - 1


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


def to_pixels(frames: Tensor) -> NDArray[np.uint8]:
    """Round f 3 H W in [-1, 1] to f H W 3, uint8, on the device; copy the bytes to the host."""
    pixels = ((frames.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
