"""`Networks` over one model: with `Denoiser` the oracle that every backend is compared with.

With `StaticDenoiser` it runs a bundle's networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from venhancer.diffusion.noise import seed_of
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.encoders.prompts import NEGATIVE, complete
from venhancer.encoders.tiled_autoencoder import TiledCodec
from venhancer.model import lapped
from venhancer.planning.plan import Plan
from venhancer.sampling.evaluation import Conditions, Model
from venhancer.sampling.latents import Latents
from venhancer.sampling.sampler import Placement, Sampler


class Codec(Protocol):
    """Frames f 3 H W in [-1, 1] <-> latents f c h w, float32."""

    def encode(self, frames: Tensor, generator: torch.Generator) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class TextEncoder(Protocol):
    def encode(self, prompt: str) -> Tensor:
        """-> 1 l d"""


@dataclass(frozen=True, slots=True)
class LappedCodec:
    """NANO's fixed transform, behind the same two functions as a learned codec."""

    scale: float

    def encode(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        return lapped.encode(frames, self.scale)

    def decode(self, latents: Tensor) -> Tensor:
        return lapped.decode(latents, self.scale)


CPU = Placement()


class Reference:
    """A model, its codec and its text encoder, placed on one device."""

    def __init__(
        self,
        model: Model,
        codec: Codec,
        text_encoder: TextEncoder | None = None,
        placement: Placement = CPU,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.codec = codec
        self.text_encoder = text_encoder
        self.placement = placement
        self.seed = seed

    @property
    def device(self) -> str:
        return self.placement.device

    def encode_text(self, prompt: str, *, is_guided: bool) -> Tensor | None:
        if self.text_encoder is None:
            return None
        prompts = [complete(prompt), *([NEGATIVE] if is_guided else [])]
        return torch.cat([self.text_encoder.encode(p) for p in prompts])

    def encode(self, frames: Tensor, first: int, tile: tuple[int, int] | None) -> Tensor:
        generator, codec = torch.Generator(), self._codec(tile)
        latents = []
        for i, frame in enumerate(frames):
            generator.manual_seed(seed_of(self.seed, "encode", first + i))
            latents.append(codec.encode(frame[None].to(self.placement.device), generator))
        return torch.cat(latents).float()

    def decode(self, latents: Tensor, tile: tuple[int, int] | None) -> Tensor:
        return self._codec(tile).decode(latents.to(self.placement.device)).float()

    def _codec(self, tile: tuple[int, int] | None) -> Codec:
        if tile is None:
            return self.codec
        assert isinstance(self.codec, AutoencoderCodec)  # the others need no tiles
        return TiledCodec(self.codec, tile)

    def sampler(self, plan: Plan, text: Tensor | None) -> Sampler:
        device = "cpu" if plan.holds_latents_on_host else self.placement.device
        neighbours = self.model.config.neighbour_channels
        latents = Latents(plan.capacity, plan.latents, device, neighbours)
        conditions = Conditions(plan.refine, plan.scale, text)
        return Sampler(self.model, plan.sampling, conditions, latents, self.placement)
