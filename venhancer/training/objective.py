"""The loss: the error of the network's prediction for a diffused clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from venhancer.config import ModelConfig
from venhancer.device import to_device
from venhancer.diffusion.schedule import START, alpha_sigma, denoised_from, diffuse
from venhancer.errors import OptionError
from venhancer.model.lapped import BLOCK, MEANS
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Batch
from venhancer.training.encoders import Encoders

Objective = Callable[[nn.Module, Batch, torch.Generator], Tensor]  # -> the loss, a scalar
Perceive = Callable[[Tensor, Tensor], Tensor]  # two b 3 H W in [-1, 1] -> distances (b)


@dataclass(frozen=True, slots=True)
class Diffused:
    """A batch in latents: the truth, its noise, and the conditions that the network sees."""

    clean: Tensor  # b c f h w
    noise: Tensor  # b c f h w, standard normal
    shown: Tensor  # b c f h w: the hint's latents, diffused to its noise level
    text: Tensor | None  # b l d

    def conditions(self, batch: Batch) -> dict[str, Tensor | None]:
        """Collect the inputs of `Denoiser.forward` besides noisy latents and timestep."""
        return {
            "hint": self.shown,
            "is_key": batch.is_key,
            "noise_level": batch.noise_level,
            "scale": batch.scale,
            "text": self.text,
            **({} if batch.neighbours is None else {"neighbours": batch.neighbours}),
        }


@dataclass(frozen=True, slots=True)
class DiffusionLoss:
    """Diffusion loss of a batch, at timesteps drawn as configured (paper, section 4.1)."""

    model: ModelConfig
    config: TrainingConfig
    encoders: Encoders
    sigmas: Tensor  # of every timestep, as the model holds them
    perceive: Perceive | None = None

    def __post_init__(self) -> None:
        if self.config.grid_weight and self.encoders.decode is None:
            raise OptionError(
                f"grid_weight={self.config.grid_weight} needs a codec that decodes at no cost "
                "(NANO's): leave it at 0"
            )

    def __call__(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Compute the loss; network: a Denoiser, or a wrapped one; batch: on its device."""
        seen = encode_batch(batch, self.encoders, self.sigmas, generator)
        timestep = self.draw_timesteps(len(seen.clean), generator)
        noisy = diffuse(self.sigmas, seen.clean, seen.noise, timestep)
        out = network(latents=noisy, timestep=timestep, **seen.conditions(batch))
        return self.judge(out, noisy, seen, timestep, generator)

    def judge(
        self,
        out: Tensor,
        noisy: Tensor,
        wanted: Diffused,
        timestep: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Compute the loss of a prediction with all its parts; `wanted.clean` is the target."""
        value = self.error(out, wanted, timestep).mean()
        if self.config.grid_weight:
            value = value + self.config.grid_weight * self.grid(out, wanted.clean)
        if self.perceive is None or not self.config.perceptual_weight:
            return value
        _, sigma = alpha_sigma(self.sigmas, timestep, out.ndim)
        denoised = denoised_from(self.model.prediction, out, noisy, sigma)
        return value + self.config.perceptual_weight * self.look(denoised, wanted.clean, generator)

    def grid(self, out: Tensor, clean: Tensor) -> Tensor:
        """Compute errors that show the codec's blocks as a grid: b c f h w, twice -> a scalar."""
        assert self.encoders.decode is not None
        frames = (x.transpose(1, 2).flatten(0, 1).float() for x in (out, clean))
        made, true = map(self.encoders.decode, frames)
        return uneven_steps(made, true) + FLAT_SHARE * flat_error(out, clean)

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps from the range that sampling uses: (count), int64."""
        drawn = torch.rand(count, generator=generator) ** self.config.timestep_power
        if self.config.start_share:
            is_start = torch.rand(count, generator=generator) < self.config.start_share
            drawn = torch.where(is_start, 1.0, drawn)
        timesteps = (drawn * (START + 1)).long().clamp(max=START)
        return to_device(timesteps, self.sigmas.device.type)

    def error(self, out: Tensor, seen: Diffused, timestep: Tensor) -> Tensor:
        """Compute the error of each value: b c f h w."""
        if self.model.prediction == "sample":
            return charbonnier(out - seen.clean)
        alpha, sigma = alpha_sigma(self.sigmas, timestep, seen.clean.ndim)
        return (out - (alpha * seen.noise - sigma * seen.clean)).square()

    def look(self, denoised: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Average the perceptual distance of one random frame per clip from the truth.

        The config limits the number of clips and the size of the squares: features cost more than a
        small network.
        """
        assert self.encoders.decode is not None
        assert self.perceive is not None
        count = max(1, round(self.config.perceptual_share * len(clean)))
        clips = torch.randperm(len(clean), generator=generator)[:count]
        frames = torch.randint(clean.shape[2], (count,), generator=generator)
        clips, frames = (to_device(x, clean.device.type) for x in (clips, frames))
        made, true = (self.encoders.decode(x[clips, :, frames].float()) for x in (denoised, clean))
        rows, columns = (self._side(size, generator) for size in made.shape[-2:])
        return self.perceive(made[..., rows, columns], true[..., rows, columns]).mean()

    def _side(self, size: int, generator: torch.Generator) -> slice:
        """Choose a random interval of the configured size along an axis; 0 means all of it."""
        side = min(self.config.perceptual_crop or size, size)
        start = int(torch.randint(size - side + 1, (1,), generator=generator))
        return slice(start, start + side)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise like x, on the device of x.

    generator: on the CPU; it seeds a new one where x is on another device
    """
    if x.device.type != "cpu":
        seed = int(torch.randint(2**62, (1,), generator=generator))
        generator = torch.Generator(x.device).manual_seed(seed)
    return torch.randn(x.shape, generator=generator, device=x.device).to(x)


def encode_batch(
    batch: Batch, encoders: Encoders, sigmas: Tensor, generator: torch.Generator
) -> Diffused:
    """Encode a batch into latents and context, and draw its noise."""
    clean, hint = batch.target, batch.hint
    if not batch.is_latent:
        clean = encoders.pixels(batch.target, generator)
        keys = to_device(torch.tensor(batch.keys), clean.device.type)  # the same in all clips
        hint = torch.zeros_like(clean)  # frames between them are never used
        hint.index_copy_(2, keys, encoders.pixels(batch.hint.index_select(1, keys), generator))
    text = batch.text
    if text is None and encoders.text is not None:
        text = encoders.text(batch.captions)
    noise, hint_noise = (noise_like(clean, generator) for _ in range(2))
    shown = diffuse(sigmas, hint, hint_noise, batch.noise_level)
    return Diffused(clean, noise, shown, text)


FLAT_SHARE = 0.25  # weight of errors in flat places, relative to uneven steps
FLAT = 0.02  # mean size of a block's details (latents) below which it counts as flat, about
SMOOTH = 0.002  # smaller errors count by their squares; a tenth of a grey level is much larger


def charbonnier(error: Tensor) -> Tensor:
    """Compute the absolute error, smooth at zero (Charbonnier et al. 1994), robust to outliers."""
    return (error.square() + SMOOTH**2).sqrt()


def uneven_steps(made: Tensor, true: Tensor) -> Tensor:
    """Compute how unevenly excess pixel differences are spread over the positions in a block.

    A network that puts more detail into the middle of the codec's blocks than over their borders,
    or less, shows them as a grid: f 3 H W, twice -> a scalar, the sum over both directions.
    """
    return _uneven(made, true) + _uneven(made.mT, true.mT)


def _uneven(made: Tensor, true: Tensor) -> Tensor:
    blocks = made.shape[-1] // BLOCK - 1  # the last block's last difference would leave the picture
    sizes = [x.mean(1).diff(dim=-1)[..., : blocks * BLOCK].abs() for x in (made, true)]
    excess = (sizes[0] - sizes[1]).unflatten(-1, (blocks, BLOCK)).mean((1, 2))
    return (excess - excess.mean(-1, keepdim=True)).abs().mean()


def flat_error(out: Tensor, clean: Tensor) -> Tensor:
    """Compute the error of details where the truth has none: b c f h w -> a scalar.

    A pattern that repeats in every block of the codec is visible there as a grid, however faint.
    A perceptual loss tends to create such patterns.
    """
    details, true = out[:, MEANS:], clean[:, MEANS:]
    busy = true.abs().mean(1, keepdim=True)
    near = F.max_pool3d(busy, (1, 3, 3), 1, (0, 1, 1))
    return ((details - true).abs() * torch.exp(-near / FLAT)).mean()
