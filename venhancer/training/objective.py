"""The loss: how far the network's prediction of a diffused clip is off."""

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
    """A batch as the network meets it: true latents, what is known of them, and what is asked."""

    clean: Tensor  # b c f h w
    noise: Tensor  # b c f h w, standard normal
    shown: Tensor  # b c f h w: the hint's latents, diffused to its noise level
    text: Tensor | None  # b l d

    def conditions(self, batch: Batch) -> dict[str, Tensor | None]:
        """The inputs of `Denoiser.forward` beside the noisy latents and their timestep."""
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
    """The v-loss of a batch, at timesteps drawn as the config says (paper, section 4.1)."""

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
        """network: a Denoiser, or what wraps one; batch: on the network's device."""
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
        """The loss of a prediction, all its parts included, where `wanted.clean` is wanted."""
        value = self.error(out, wanted, timestep).mean()
        if self.config.grid_weight:
            value = value + self.config.grid_weight * self.grid(out, wanted.clean)
        if self.perceive is None or not self.config.perceptual_weight:
            return value
        _, sigma = alpha_sigma(self.sigmas, timestep, out.ndim)
        denoised = denoised_from(self.model.prediction, out, noisy, sigma)
        return value + self.config.perceptual_weight * self.look(denoised, wanted.clean, generator)

    def grid(self, out: Tensor, clean: Tensor) -> Tensor:
        """Errors that show the codec's blocks as a grid: b c f h w, twice -> a scalar."""
        assert self.encoders.decode is not None
        frames = (x.transpose(1, 2).flatten(0, 1).float() for x in (out, clean))
        made, true = map(self.encoders.decode, frames)
        return uneven_steps(made, true) + FLAT_SHARE * flat_error(out, clean)

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps that sampling passes: (count), int64."""
        drawn = torch.rand(count, generator=generator) ** self.config.timestep_power
        if self.config.start_share:
            is_start = torch.rand(count, generator=generator) < self.config.start_share
            drawn = torch.where(is_start, 1.0, drawn)
        timesteps = (drawn * (START + 1)).long().clamp(max=START)
        return to_device(timesteps, self.sigmas.device.type)

    def error(self, out: Tensor, seen: Diffused, timestep: Tensor) -> Tensor:
        """The error of each value: b c f h w."""
        if self.model.prediction == "sample":
            return charbonnier(out - seen.clean)
        alpha, sigma = alpha_sigma(self.sigmas, timestep, seen.clean.ndim)
        return (out - (alpha * seen.noise - sigma * seen.clean)).square()

    def look(self, denoised: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Perceptual distance of one random frame of a clip from the truth, averaged.

        Of as many clips, and of squares as large, as the config says: features cost more than a
        small network does.
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
        """Place a random square of the config's size along an axis; 0 asks for all of it."""
        side = min(self.config.perceptual_crop or size, size)
        start = int(torch.randint(size - side + 1, (1,), generator=generator))
        return slice(start, start + side)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the size of x, drawn where x is.

    generator: one of the CPU, which seeds a new one where x is on a card
    """
    if x.device.type != "cpu":
        seed = int(torch.randint(2**62, (1,), generator=generator))
        generator = torch.Generator(x.device).manual_seed(seed)
    return torch.randn(x.shape, generator=generator, device=x.device).to(x)


def encode_batch(
    batch: Batch, encoders: Encoders, sigmas: Tensor, generator: torch.Generator
) -> Diffused:
    """Latents and context of a batch, and the noise that belongs to it."""
    clean, hint = batch.target, batch.hint
    if not batch.is_latent:
        clean = encoders.pixels(batch.target, generator)
        keys = to_device(torch.tensor(batch.keys), clean.device.type)  # alike in all clips
        hint = torch.zeros_like(clean)  # nothing looks at frames between them
        hint.index_copy_(2, keys, encoders.pixels(batch.hint.index_select(1, keys), generator))
    text = batch.text
    if text is None and encoders.text is not None:
        text = encoders.text(batch.captions)
    noise, hint_noise = (noise_like(clean, generator) for _ in range(2))
    shown = diffuse(sigmas, hint, hint_noise, batch.noise_level)
    return Diffused(clean, noise, shown, text)


FLAT_SHARE = 0.25  # of errors in flat places, beside uneven steps
FLAT = 0.02  # mean size of a block's details (latents) about which it counts as flat
SMOOTH = 0.002  # errors below count by their squares; a tenth of a grey level is far above


def charbonnier(error: Tensor) -> Tensor:
    """The absolute error, smooth at zero (Charbonnier et al. 1994): outliers do not rule it."""
    return (error.square() + SMOOTH**2).sqrt()


def uneven_steps(made: Tensor, true: Tensor) -> Tensor:
    """The steps between pixels, more unevenly spread over the places in a block than the truth's.

    A network that puts detail into the middle of the codec's blocks more than over their borders,
    or the other way, shows them as a grid: f 3 H W, twice -> a scalar, of both directions.
    """
    return _uneven(made, true) + _uneven(made.mT, true.mT)


def _uneven(made: Tensor, true: Tensor) -> Tensor:
    blocks = made.shape[-1] // BLOCK - 1  # the last step of the last one would leave the picture
    sizes = [x.mean(1).diff(dim=-1)[..., : blocks * BLOCK].abs() for x in (made, true)]
    excess = (sizes[0] - sizes[1]).unflatten(-1, (blocks, BLOCK)).mean((1, 2))
    return (excess - excess.mean(-1, keepdim=True)).abs().mean()


def flat_error(out: Tensor, clean: Tensor) -> Tensor:
    """The error of details where the truth has none: b c f h w -> a scalar.

    There a pattern that every block of the codec repeats is seen as a grid, however faint, and
    there a perceptual loss likes to put one.
    """
    details, true = out[:, MEANS:], clean[:, MEANS:]
    busy = true.abs().mean(1, keepdim=True)
    near = F.max_pool3d(busy, (1, 3, 3), 1, (0, 1, 1))
    return ((details - true).abs() * torch.exp(-near / FLAT)).mean()
