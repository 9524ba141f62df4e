"""The loss: how far the network's prediction of a diffused clip is off."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from venhancer.diffusion.schedule import START, alpha_sigma, diffuse
from venhancer.model.denoiser import Denoiser, fill_between_keys
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
    """v-loss of one batch, at timesteps that sampling passes, drawn as the config says."""
    device = model.sigmas.device
    batch = batch.to(device)
    clean, hint = encode(batch.target), encode(batch.hint)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    hint_noise = torch.randn(clean.shape, generator=generator).to(device)
    drawn = torch.rand(len(clean), generator=generator) ** config.timestep_power
    timestep = (drawn * (START + 1)).long().clamp(max=START).to(device)
    noisy = diffuse(model.sigmas, clean, noise, timestep)
    shown = diffuse(model.sigmas, hint, hint_noise, batch.noise_level)
    out = model(
        latents=noisy,
        timestep=timestep,
        hint=shown,
        is_key=batch.is_key,
        noise_level=batch.noise_level,
        scale=batch.scale,
        text=text,
    )
    alpha, sigma = alpha_sigma(model.sigmas, timestep, clean.ndim)
    if model.config.prediction == "v":
        return (out - (alpha * noise - sigma * clean)).square().mean()
    weight = 1 / sigma.clamp(min=config.sigma_floor) ** 2
    anchor = fill_between_keys(shown, batch.is_key)
    return (weight * relative_error(out, clean, anchor)).mean()


LEAST_ERROR = 1e-2  # frames with less (32 dB, in NANO's latents) count by their plain squares


def relative_error(out: Tensor, clean: Tensor, anchor: Tensor) -> Tensor:
    """Squared error of each frame over that of the anchor: b c f h w -> b 1 f 1 1.

    Fast motion and large factors leave errors a hundred times those of easy clips; in plain squares
    they would drown what can be learned from the rest.
    """
    axes = (1, 3, 4)
    error = (out - clean).square().mean(dim=axes, keepdim=True)
    return error / ((anchor - clean).square().mean(dim=axes, keepdim=True) + LEAST_ERROR)
