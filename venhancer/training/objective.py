"""The loss: how far the network's prediction of a diffused clip is off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from venhancer.config import ModelConfig
from venhancer.diffusion.schedule import START, alpha_sigma, denoised_from, diffuse
from venhancer.model.denoiser import fill_between_keys
from venhancer.training.augmentation import Batch
from venhancer.training.config import TrainingConfig
from venhancer.training.encoders import Encoders

Objective = Callable[[nn.Module, Batch, torch.Generator], Tensor]  # -> the loss, a scalar
Perceive = Callable[[Tensor, Tensor], Tensor]  # two b 3 H W in [-1, 1] -> distances (b)


@dataclass(frozen=True, slots=True)
class Diffused:
    """A batch as the network meets it: true latents, what is known of them, and what is asked."""

    clean: Tensor  # b c f h w
    noise: Tensor  # b c f h w, standard normal
    shown: Tensor  # b c f h w: the hint's latents, diffused to its noise level
    text: Tensor | None  # b l d

    def conditions(self, batch: Batch) -> dict[str, Tensor | None]:
        """What `Denoiser.forward` takes beside the noisy latents and their timestep."""
        return {
            "hint": self.shown,
            "is_key": batch.is_key,
            "noise_level": batch.noise_level,
            "scale": batch.scale,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class DiffusionLoss:
    """The v-loss of a batch, at timesteps drawn as the config says (paper, section 4.1)."""

    model: ModelConfig
    config: TrainingConfig
    encoders: Encoders
    sigmas: Tensor  # of every timestep, as the model holds them
    perceive: Perceive | None = None

    def __call__(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """network: a Denoiser, or what wraps one; batch: on the network's device."""
        seen = encode_batch(batch, self.encoders, self.sigmas, generator)
        timestep = self.draw_timesteps(len(seen.clean), generator)
        noisy = diffuse(self.sigmas, seen.clean, seen.noise, timestep)
        out = network(latents=noisy, timestep=timestep, **seen.conditions(batch))
        return self.judge(out, noisy, seen, timestep, batch.is_key, generator)

    def judge(
        self,
        out: Tensor,
        noisy: Tensor,
        wanted: Diffused,
        timestep: Tensor,
        is_key: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """The loss of a prediction, perceptual part included, where `wanted.clean` is wanted."""
        value = self.error(out, wanted, timestep, is_key).mean()
        if self.perceive is None or not self.config.perceptual_weight:
            return value
        _, sigma = alpha_sigma(self.sigmas, timestep, out.ndim)
        denoised = denoised_from(self.model.prediction, out, noisy, sigma)
        return value + self.config.perceptual_weight * self.look(denoised, wanted.clean, generator)

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps that sampling passes: (count), int64."""
        drawn = torch.rand(count, generator=generator) ** self.config.timestep_power
        return (drawn * (START + 1)).long().clamp(max=START).to(self.sigmas.device)

    def error(self, out: Tensor, seen: Diffused, timestep: Tensor, is_key: Tensor) -> Tensor:
        """Of each value, or of each frame relative to its anchor's: broadcasts to b c f h w."""
        alpha, sigma = alpha_sigma(self.sigmas, timestep, seen.clean.ndim)
        if self.model.prediction == "v":
            return (out - (alpha * seen.noise - sigma * seen.clean)).square()
        weight = 1 / sigma.clamp(min=self.config.sigma_floor) ** 2
        anchor = fill_between_keys(seen.shown, is_key)
        return weight * relative_error(out, seen.clean, anchor)

    def look(self, denoised: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Perceptual distance of one random frame of each clip from the truth, averaged."""
        assert self.encoders.decode is not None
        assert self.perceive is not None
        clips = torch.arange(len(clean))
        frames = torch.randint(clean.shape[2], (len(clean),), generator=generator)
        made, true = (self.encoders.decode(x[clips, :, frames].float()) for x in (denoised, clean))
        return self.perceive(made, true).mean()


def encode_batch(
    batch: Batch, encoders: Encoders, sigmas: Tensor, generator: torch.Generator
) -> Diffused:
    """Latents and context of a batch, and the noise that belongs to it."""
    clean, hint = batch.target, batch.hint
    if not batch.is_latent:
        clean = encoders.pixels(batch.target, generator)
        keys = batch.is_key[0].bool()  # of all clips alike; nothing looks at the other frames
        hint = torch.zeros_like(clean)
        hint[:, :, keys] = encoders.pixels(batch.hint[:, keys], generator)
    text = batch.text
    if text is None and encoders.text is not None:
        text = encoders.text(batch.captions)
    noise, hint_noise = (torch.randn(clean.shape, generator=generator).to(clean) for _ in range(2))
    shown = diffuse(sigmas, hint, hint_noise, batch.noise_level)
    return Diffused(clean, noise, shown, text)


LEAST_ERROR = 1e-2  # frames with less (32 dB, in NANO's latents) count by their plain squares


def relative_error(out: Tensor, clean: Tensor, anchor: Tensor) -> Tensor:
    """Squared error of each frame over that of the anchor: b c f h w -> b 1 f 1 1.

    Fast motion and large factors leave errors a hundred times those of easy clips; in plain squares
    they would drown what can be learned from the rest.
    """
    axes = (1, 3, 4)
    error = (out - clean).square().mean(dim=axes, keepdim=True)
    return error / ((anchor - clean).square().mean(dim=axes, keepdim=True) + LEAST_ERROR)
