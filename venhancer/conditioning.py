"""Between pixels and what the network sees: resize, pad, crop, noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from venhancer.config import Upsampling
from venhancer.device import to_device
from venhancer.diffusion.schedule import START, alpha_sigma, noise_schedule
from venhancer.diffusion.solver import frame_noise
from venhancer.geometry import Geometry
from venhancer.options import Padding

Frame = NDArray[np.uint8]  # H W 3


def resize(
    frame: Frame,
    width: int,
    height: int,
    upsampling: Upsampling = "bilinear",
    device: str = "cpu",
) -> Tensor:
    """Enlarge as the model was trained: H W 3, uint8 -> 1 3 height width in [-1, 1].

    The bytes are what crosses to the device, where the rest is done.
    """
    given = to_device(torch.from_numpy(np.ascontiguousarray(frame)), device)
    pixels, size = given.permute(2, 0, 1)[None].float(), (height, width)
    return F.interpolate(pixels, size, mode=upsampling, align_corners=False) / 127.5 - 1


def pad(frames: Tensor, geometry: Geometry, padding: Padding) -> Tensor:
    """Surround f 3 H W to the size that the network takes, by reflection or in white."""
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
    """Source index of each padded position; a frame smaller than its padding is reflected again."""
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
    """f 3 H W in [-1, 1] -> f H W 3, uint8, rounded on the device; the bytes cross to the host."""
    pixels = ((frames.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def noisy_hint(clean: Tensor, refine: int, frame: int, seed: int) -> Tensor:
    """Diffuse a key frame's latents (c h w) to timestep refine - 1; 0 leaves them as they are.

    frame: its number in the grid, to which its noise belongs
    """
    if refine == 0:
        return clean
    return _diffused(clean, refine - 1, frame_noise(clean.shape, seed, "hint", frame, _on(clean)))


def noisy_start(clean: Tensor, frame: int, seed: int) -> Tensor:
    """Where sampling of a grid frame starts: the key frame before it (c h w), diffused."""
    clean = clean.float()
    return _diffused(clean, START, frame_noise(clean.shape, seed, "start", frame, _on(clean)))


def _on(x: Tensor) -> str:
    return x.device.type


def _diffused(clean: Tensor, timestep: int, noise: Tensor) -> Tensor:
    alpha, sigma = _shares(timestep)
    return (alpha * clean + sigma * noise).to(clean.dtype)


@cache
def _shares(timestep: int) -> tuple[float, float]:
    """alpha and sigma of a timestep, as float32 has them."""
    alpha, sigma = alpha_sigma(noise_schedule().float(), torch.tensor([timestep]), 1)
    return float(alpha), float(sigma)
