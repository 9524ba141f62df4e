"""The loss: how far the network's prediction of a diffused clip is off."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from venhancer.diffusion.schedule import START, alpha_sigma, diffuse
from venhancer.model.denoiser import Denoiser
from venhancer.training.augmentation import Batch
from venhancer.training.config import TrainingConfig

Encode = Callable[[Tensor], Tensor]  # b f 3 H W -> b c f h w


def loss(
    model: Denoiser,
    batch: Batch,
    encode: Encode,
    config: TrainingConfig,
    generator: torch.Generator,
    text: Tensor | None = None,
) -> Tensor:
    """Mean v-loss of one batch, at timesteps drawn evenly from those that sampling starts in."""
    clean, hint = encode(batch.target), encode(batch.hint)
    noise = torch.randn(clean.shape, generator=generator)
    hint_noise = torch.randn(clean.shape, generator=generator)
    timestep = torch.randint(0, START + 1, (len(clean),), generator=generator)
    noisy = diffuse(model.sigmas, clean, noise, timestep)
    out = model(
        latents=noisy,
        timestep=timestep,
        hint=diffuse(model.sigmas, hint, hint_noise, batch.noise_level),
        is_key=batch.is_key,
        noise_level=batch.noise_level,
        scale=batch.scale,
        text=text,
    )
    alpha, sigma = alpha_sigma(model.sigmas, timestep, clean.ndim)
    if model.config.prediction == "v":
        return (out - (alpha * noise - sigma * clean)).square().mean()
    weight = 1 / sigma.clamp(min=config.sigma_floor) ** 2
    return (weight * (out - clean).square()).mean()
