"""Noise of each frame by its number, and latents that are diffused with it."""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor

from venhancer.diffusion.schedule import START, alpha_sigma, noise_schedule


def frame_noise(
    shape: tuple[int, ...], seed: int, purpose: str, frame: int, device: str = "cpu"
) -> Tensor:
    """Standard normal noise of one output frame, float32, drawn on the device.

    It depends on the seed, on what it is for ("start", "hint", "step 3"), on the frame's number and
    on the device (CUDA's generators give other numbers on other cards): not on windows, tiles or
    the point where a run was resumed.
    """
    generator = torch.Generator(device).manual_seed(seed_of(seed, purpose, frame))
    return torch.randn(shape, generator=generator, device=device)


def seed_of(seed: int, purpose: str, frame: int) -> int:
    """A generator's seed for one frame and one purpose."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{frame}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


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
