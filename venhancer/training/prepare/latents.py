"""Encoding of prepared clips before training: their centres, degraded versions, captions."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from venhancer.config import Upsampling
from venhancer.training.config import TrainingConfig
from venhancer.training.data import shards
from venhancer.training.data.augmentation import degrade, sample_downscaling, sample_scale
from venhancer.training.data.latents import pack_latents, pack_text
from venhancer.training.data.media import read_centre
from venhancer.training.encoders import Encoders

CHUNK_FRAMES = 8  # encoded at a time


@dataclass(frozen=True, slots=True)
class LatentMaker:
    """Maker of a clip's latents by a preset's encoders; `versions`: number of degraded ones."""

    encoders: Encoders
    config: TrainingConfig
    upsampling: Upsampling
    versions: int
    device: str = "cpu"

    def members(self, video: bytes, caption: str, number: int) -> dict[str, bytes]:
        """Make the latent members of the sample with that number, by extension."""
        rng = np.random.default_rng([self.config.seed, number])
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        frames, config = read_centre(io.BytesIO(video), self.config), self.config
        target = self.encode(frames, generator)
        scales = [sample_scale(config, rng) for _ in range(self.versions)]
        hints = [
            self.encode(frames, generator, scale, sample_downscaling(config, rng))
            for scale in scales
        ]
        members = {shards.LATENTS: pack_latents(target, torch.stack(hints), scales, config.crop)}
        if self.encoders.text is not None:
            text, empty = self.encoders.text([caption, ""]).cpu()
            members[shards.TEXT] = pack_text(text, empty)
        return members

    @torch.no_grad()
    def encode(
        self,
        frames: Tensor,
        generator: torch.Generator,
        scale: float = 1.0,
        downscaling: Upsampling = "bilinear",
    ) -> Tensor:
        """Encode frames degraded by `scale`: f 3 H W, uint8 -> f c h w, float16."""
        parts = []
        for chunk in frames.split(CHUNK_FRAMES):
            true = chunk.to(self.device).float() / 127.5 - 1
            shown = degrade(true, scale, self.upsampling, downscaling) if scale > 1 else true
            parts.append(self.encoders.pixels(shown[None], generator)[0].transpose(0, 1).half())
        return torch.cat(parts).cpu()
