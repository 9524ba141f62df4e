"""The loss and the PSNR on a held-out pool, by scale, for clean and flawed samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from venhancer.config import Preset
from venhancer.diffusion.schedule import START, diffuse, noise_schedule
from venhancer.training.config import TrainingConfig
from venhancer.training.data.pool import Pool
from venhancer.training.encoders import Encoders
from venhancer.training.objective import DiffusionLoss, encode_batch
from venhancer.training.validation import Cell, Score, mean_score, psnr_of

SCALES = (2, 3, 4, 8)  # a sample belongs to the nearest of these
FLAWED = 100  # label of all noise levels above zero


class PoolValidation:
    """Validation at the first timestep of sampling, as in a run of one evaluation; noise is fixed.

    samples: largest number of samples to use
    """

    def __init__(
        self,
        pool: Pool,
        preset: Preset,
        config: TrainingConfig,
        encoders: Encoders,
        samples: int = 384,
    ) -> None:
        self.pool, self.preset, self.config, self.encoders = pool, preset, config, encoders
        self.indices = np.arange(min(samples, len(pool)))

    def measure(self, network: nn.Module, rank: int = 0, world: int = 1) -> dict[Cell, Score]:
        """Compute mean scores; every process computes all of them."""
        was_training = network.training
        network.eval()
        try:
            found: dict[Cell, list[Score]] = {}
            for index in self.indices:
                found.setdefault(self._cell(index), []).append(self._score(network, index))
        finally:
            network.train(was_training)
        return {cell: mean_score(scores) for cell, scores in sorted(found.items())}

    def _cell(self, index: np.int64) -> Cell:
        scale, level = (self.pool.samples[name][index].item() for name in ("scale", "level"))
        nearest = min(SCALES, key=lambda known: abs(np.log(known / scale)))
        return Cell(stride=1, scale=nearest, noise_level=FLAWED if level else 0)

    @torch.no_grad()
    def _score(self, network: nn.Module, index: np.int64) -> Score:
        device = next(network.parameters()).device
        sigmas = noise_schedule().float().to(device)
        batch = self.pool.batch(np.array([index]), None).to(device)
        generator = torch.Generator().manual_seed(int(index))
        seen = encode_batch(batch, self.encoders, sigmas, generator)
        timestep = torch.tensor([START], device=device)
        noisy = diffuse(sigmas, seen.clean, seen.noise, timestep)
        out = network(latents=noisy, timestep=timestep, **seen.conditions(batch)).float()
        objective = DiffusionLoss(self.preset.model, self.config, self.encoders, sigmas)
        loss = float(objective.error(out, seen, timestep).mean())
        return Score(loss, psnr_of(out, seen.clean, self.encoders))
