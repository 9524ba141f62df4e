"""Between pixels and what the network sees: resize, pad, crop, noise."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from venhancer.config import Upsampling
from venhancer.diffusion.schedule import START, diffuse, noise_schedule
from venhancer.diffusion.solver import frame_noise
from venhancer.geometry import Geometry
from venhancer.options import Padding

Frame = NDArray[np.uint8]  # H W 3


def resize(frame: Frame, width: int, height: int, upsampling: Upsampling = "bilinear") -> Tensor:
    """Enlarge as the model was trained: H W 3, uint8 -> 1 3 height width in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    size = (height, width)
    return F.interpolate(pixels, size, mode=upsampling, align_corners=False) / 127.5 - 1


def pad(frames: Tensor, geometry: Geometry, padding: Padding) -> Tensor:
    """Surround f 3 H W to the size that the network takes, by reflection or in white."""
    sides = (geometry.left, geometry.right, geometry.top, geometry.bottom)
    if not any(sides):
        return frames
    if padding == "white":
        return F.pad(frames, sides, value=1.0)
    h, w = frames.shape[-2:]
    rows = torch.from_numpy(_reflected(h, geometry.top, geometry.bottom))
    columns = torch.from_numpy(_reflected(w, geometry.left, geometry.right))
    return frames[:, :, rows][:, :, :, columns]


def _reflected(size: int, before: int, after: int) -> NDArray[np.int64]:
    """Source index of each padded position; a frame smaller than its padding is reflected again."""
    return np.pad(np.arange(size), (before, after), mode="symmetric")


def crop(frames: Tensor, geometry: Geometry) -> Tensor:
    """Undo `pad`: f 3 H W of the padded size -> the exact output size."""
    return frames[
        :,
        :,
        geometry.top : geometry.top + geometry.height,
        geometry.left : geometry.left + geometry.width,
    ]


def to_pixels(frames: Tensor) -> NDArray[np.uint8]:
    """f 3 H W in [-1, 1] -> f H W 3, uint8, rounded."""
    pixels = ((frames.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def noisy_hint(clean: Tensor, refine: int, frame: int, seed: int) -> Tensor:
    """Diffuse a key frame's latents (c h w) to timestep refine - 1; 0 leaves them as they are.

    frame: its number in the grid, to which its noise belongs
    """
    if refine == 0:
        return clean
    noise = frame_noise(clean.shape, seed, "hint", frame)
    return diffuse(noise_schedule().float(), clean[None], noise[None], torch.tensor([refine - 1]))[
        0
    ]


def noisy_start(clean: Tensor, frame: int, seed: int) -> Tensor:
    """Where sampling of a grid frame starts: the key frame before it (c h w), diffused."""
    noise = frame_noise(clean.shape, seed, "start", frame)
    at = torch.tensor([START])
    return diffuse(noise_schedule().float(), clean[None].float(), noise[None], at)[0]
