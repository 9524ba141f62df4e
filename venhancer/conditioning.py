"""Between pixels and what the network sees: resize, pad, crop, repeat, noise."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the controller is shown, for a whole clip."""

    hint: Tensor  # k c h w: latents of the key frames, noised
    gap: int  # grid frames from one key frame to the next
    noise_level: int  # of the hint, as the network is told it
    scale: float  # downscaling s, as the network is told it
    text: Tensor | None  # 2 l d: prompt, then negative prompt; 1 l d without guidance


def resize(frame: Frame, width: int, height: int, upsampling: Upsampling = "bilinear") -> Tensor:
    """Enlarge as the model was trained: H W 3, uint8 -> 1 3 height width in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    size = (height, width)
    return F.interpolate(pixels, size, mode=upsampling, align_corners=False) / 127.5 - 1


def pad(frames: Tensor, geometry: Geometry, padding: Padding) -> Tensor:
    """Surround f 3 H W to the size that the network takes, by reflection or in white."""
    sides = (geometry.left, geometry.right, geometry.top, geometry.bottom)
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


def noisy_hint(clean: Tensor, refine: int, gap: int, seed: int) -> Tensor:
    """Diffuse key-frame latents (k c h w) to timestep refine - 1; 0 leaves them as they are."""
    if refine == 0:
        return clean
    sigmas, timestep = noise_schedule().float(), torch.tensor([refine - 1])
    hint = torch.empty_like(clean)
    for i, frame in enumerate(clean):
        noise = frame_noise(frame.shape, seed, "hint", i * gap)
        hint[i] = diffuse(sigmas, frame[None], noise[None], timestep)[0]
    return hint


def noisy_start(clean: Tensor, grid_frames: int, gap: int, seed: int) -> Tensor:
    """Where sampling starts: every key frame repeated over its gap, diffused to `START`.

    clean: k c h w -> grid_frames c h w
    """
    sigmas, timestep = noise_schedule().float(), torch.tensor([START])
    start = torch.empty(grid_frames, *clean.shape[1:])
    for j in range(grid_frames):
        noise = frame_noise(clean.shape[1:], seed, "start", j)
        start[j] = diffuse(sigmas, clean[j // gap][None].float(), noise[None], timestep)[0]
    return start


def dense_hint(conditions: Conditions, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """The hint of grid frames `start` to `stop`, zero between key frames.

    -> (1 c f h w, is_key 1 f)
    """
    _, c, h, w = conditions.hint.shape
    is_key = (torch.arange(start, stop) % conditions.gap == 0).float()[None]
    hint = torch.zeros(1, c, stop - start, h, w)
    first = -(-start // conditions.gap)
    keys = conditions.hint[first : (stop - 1) // conditions.gap + 1]
    hint[0, :, first * conditions.gap - start :: conditions.gap] = keys.transpose(0, 1).float()
    return hint, is_key
