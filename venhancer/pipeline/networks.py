"""Model, codec and text encoder of a run, as the pipeline calls them.

A `Denoiser` belongs to PyTorch's networks, a `StaticDenoiser` to those of a bundle.
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
    """Interface of a codec: frames f 3 H W in [-1, 1] <-> latents f c h w, float32."""

    def encode(self, frames: Tensor, generator: torch.Generator) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class TextEncoder(Protocol):
    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt -> 1 l d."""


@dataclass(frozen=True, slots=True)
class LappedCodec:
    """NANO's fixed transform, behind the same two functions as a learned codec."""

    scale: float

    def encode(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        return lapped.encode(frames, self.scale)

    def decode(self, latents: Tensor) -> Tensor:
        return lapped.decode(latents, self.scale)


CPU = Placement()


class Networks:
    """A model, its codec and its text encoder on one device, ready for any plan of the model.

    Frames: f 3 H W in [-1, 1]; latents: f c h w, float32. Outputs are on `device`, inputs may be on
    any device.
    """

    def __init__(
        self,
        model: Model,
        codec: Codec,
        text_encoder: TextEncoder | None = None,
        placement: Placement = CPU,
    ) -> None:
        self.model = model
        self.codec = codec
        self.text_encoder = text_encoder
        self.placement = placement

    @property
    def device(self) -> str:
        """The device that computes: `cpu` or `cuda`."""
        return self.placement.device

    def encode_text(self, prompt: str, *, is_guided: bool) -> Tensor | None:
        """Encode the prompt and, if guided, the negative prompt: 2 l d, or 1 l d.

        None without a text encoder.
        """
        if self.text_encoder is None:
            return None
        prompts = [complete(prompt), *([NEGATIVE] if is_guided else [])]
        return torch.cat([self.text_encoder.encode(p) for p in prompts])

    def encode(self, plan: Plan, frames: Tensor, first: int) -> Tensor:
        """Encode key frames; first: the number of the first one."""
        generator, codec = torch.Generator(), self._codec(plan)
        latents = []
        for i, frame in enumerate(frames):
            generator.manual_seed(seed_of(plan.sampling.seed, "encode", first + i))
            latents.append(codec.encode(frame[None].to(self.placement.device), generator))
        return torch.cat(latents).float()

    def decode(self, plan: Plan, latents: Tensor) -> Tensor:
        """Decode latents of neighbouring frames, at most `contract.DECODED_FRAMES` of them."""
        return self._codec(plan).decode(latents.to(self.placement.device)).float()

    def _codec(self, plan: Plan) -> Codec:
        if plan.codec_tile is None:
            return self.codec
        assert isinstance(self.codec, AutoencoderCodec)  # other codecs need no tiles
        return TiledCodec(self.codec, plan.codec_tile)

    def sampler(self, plan: Plan, text: Tensor | None) -> Sampler:
        """Make the sampler of the plan's scenes; text: the output of `encode_text`."""
        device = "cpu" if plan.holds_latents_on_host else self.placement.device
        neighbours = self.model.config.neighbour_channels
        latents = Latents(plan.capacity, plan.latents, device, neighbours)
        conditions = Conditions(plan.refine, plan.conditioning_scale, text)
        return Sampler(self.model, plan.sampling, conditions, latents, self.placement)
