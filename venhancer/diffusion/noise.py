"""Noise seeded by the frame's number, and latents diffused with it."""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor

from venhancer.diffusion.schedule import START, alpha_sigma, noise_schedule


def frame_noise(
    shape: tuple[int, ...], seed: int, purpose: str, frame: int, device: str = "cpu"
) -> Tensor:
    """Draw standard normal noise for one output frame, float32, on the device.

    It depends on the seed, the purpose ("start", "hint", "step 3"), the frame's number and the
    device (CUDA's generators differ from card to card), but not on windows, tiles or the point
    where a run was resumed.
    """
    generator = torch.Generator(device).manual_seed(seed_of(seed, purpose, frame))
    return torch.randn(shape, generator=generator, device=device)


def seed_of(seed: int, purpose: str, frame: int) -> int:
    """Derive a generator's seed for one frame and one purpose."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{frame}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def noisy_hint(clean: Tensor, refine: int, frame: int, seed: int) -> Tensor:
    """Diffuse a key frame's latents (c h w) to timestep refine - 1; 0 leaves them as they are.

    frame: its number in the grid, which selects its noise
    """
    if refine == 0:
        return clean
    return _diffused(clean, refine - 1, frame_noise(clean.shape, seed, "hint", frame, _on(clean)))


def noisy_start(clean: Tensor, frame: int, seed: int) -> Tensor:
    """Make the latents that a grid frame starts from: the key frame before it (c h w), diffused."""
    clean = clean.float()
    return _diffused(clean, START, frame_noise(clean.shape, seed, "start", frame, _on(clean)))


def _on(x: Tensor) -> str:
    return x.device.type


def _diffused(clean: Tensor, timestep: int, noise: Tensor) -> Tensor:
    alpha, sigma = _shares(timestep)
    return (alpha * clean + sigma * noise).to(clean.dtype)


@cache
def _shares(timestep: int) -> tuple[float, float]:
    """Compute alpha and sigma of a timestep, in float32 arithmetic."""
    alpha, sigma = alpha_sigma(noise_schedule().float(), torch.tensor([timestep]), 1)
    return float(alpha), float(sigma)
