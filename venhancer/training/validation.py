"""The loss on held-out clips by stride, scale and noise level, which shows weak combinations.

Clips, timesteps and noise are always the same: the same weights give the same numbers, and the
numbers of different updates can be compared.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from venhancer.config import Preset, Upsampling
from venhancer.diffusion.schedule import (
    START,
    alpha_sigma,
    denoised_from,
    diffuse,
    noise_schedule,
)
from venhancer.errors import OptionError
from venhancer.pipeline.pixels import Frame
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Batch, degrade, key_layout
from venhancer.training.data.held_out import HeldOut
from venhancer.training.encoders import Encoders
from venhancer.training.objective import DiffusionLoss, encode_batch

STRIDES, SCALES, NOISE_LEVELS = (1, 2, 4, 8), (2, 4, 8), (0, 100, 250)
TIMESTEPS = (100, 366, 633, START)  # at which the loss of every clip is measured


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A kind of input: key frames `stride` apart, `scale` times downscaled, diffused."""

    stride: int
    scale: int
    noise_level: int

    def __str__(self) -> str:
        return f"stride {self.stride}, {self.scale}x, noise level {self.noise_level}"

    @property
    def tag(self) -> str:
        """Name of the cell in logs."""
        return f"stride{self.stride}_{self.scale}x_noise{self.noise_level}"


@dataclass(frozen=True, slots=True)
class Score:
    """Loss and PSNR of a cell, or of one clip in it."""

    loss: float
    psnr: float | None = None  # dB, of the decoded x_0; only where decoding is almost free


Scores = Mapping[Cell, Score]

GRID = tuple(itertools.starmap(Cell, itertools.product(STRIDES, SCALES, NOISE_LEVELS)))


class Measure(Protocol):
    """Interface of a run's validation."""

    def measure(self, network: nn.Module, rank: int = 0, world: int = 1) -> dict[Cell, Score]:
        """Compute the scores of every cell, the same on every one of `world` processes."""


class Validation:
    """Validation of a network on every cell that the clips are long enough for.

    clips: each has at least `config.longest` frames; all have one size
    """

    def __init__(
        self,
        clips: Sequence[HeldOut],
        preset: Preset,
        config: TrainingConfig,
        encoders: Encoders,
        cells: Sequence[Cell] = GRID,
    ) -> None:
        longest = min(len(clip.frames) for clip in clips)
        self.clips = clips
        self.preset = preset
        self.config = config
        self.encoders = encoders
        self.cells = [cell for cell in cells if cell.stride < longest]
        if not self.cells:
            raise OptionError(f"held-out clips of {longest} frames are too short to validate with")
        self._latents: dict[tuple[int, int], Tensor] = {}  # by clip and scale, on the host

    def measure(self, network: nn.Module, rank: int = 0, world: int = 1) -> dict[Cell, Score]:
        """Average scores over the clips, the same on every one of `world` processes.

        All processes call it together; each runs the same number of forward passes. The precision
        is that of the network and of the caller's autocast.
        """
        share = self.measure_share(network, rank, world)
        parts = [share] * world
        if world > 1:
            dist.all_gather_object(parts, share)
        scores = {key: score for part in parts for key, score in part.items()}
        clips = range(len(self.clips))
        return {cell: mean_score([scores[cell, i] for i in clips]) for cell in self.cells}

    @torch.no_grad()
    def measure_share(
        self, network: nn.Module, rank: int, world: int
    ) -> dict[tuple[Cell, int], Score]:
        """Score one process's share of all cells and clips; some belong to two shares."""
        work = list(itertools.product(self.cells, range(len(self.clips))))
        padded = math.ceil(len(work) / world) * world
        mine = itertools.islice(itertools.cycle(work), rank, padded, world)
        was_training = network.training
        network.eval()
        try:
            return {(cell, clip): self._score(network, cell, clip) for cell, clip in mine}
        finally:
            network.train(was_training)

    def _score(self, network: nn.Module, cell: Cell, clip: int) -> Score:
        device = next(network.parameters()).device
        sigmas = noise_schedule().float().to(device)
        batch = self._batch(cell, clip, device)
        generator = _generator(cell.stride, cell.scale, cell.noise_level, clip)
        seen = encode_batch(batch, self.encoders, sigmas, generator)
        objective = DiffusionLoss(self.preset.model, self.config, self.encoders, sigmas)
        found = []
        for number in TIMESTEPS:
            timestep = torch.tensor([number], device=device)
            noisy = diffuse(sigmas, seen.clean, seen.noise, timestep)
            out = network(latents=noisy, timestep=timestep, **seen.conditions(batch)).float()
            loss = float(objective.error(out, seen, timestep).mean())
            _, sigma = alpha_sigma(sigmas, timestep, out.ndim)
            denoised = denoised_from(self.preset.model.prediction, out, noisy, sigma)
            found.append(Score(loss, psnr_of(denoised, seen.clean, self.encoders)))
        return mean_score(found)

    def _batch(self, cell: Cell, clip: int, device: torch.device) -> Batch:
        """Make a batch of one clip: its latents, and those of the clip degraded for the cell."""
        frames = max(1, (self.config.frames - 1) // cell.stride) * cell.stride + 1
        encode, held_out = self.encoders.text, self.clips[clip]
        batch = Batch(
            target=self._latents_of(clip, 1, device)[:, :, :frames],
            hint=self._latents_of(clip, cell.scale, device)[:, :, :frames],
            is_key=key_layout(frames, cell.stride)[None],
            scale=torch.tensor([float(cell.scale)]),
            noise_level=torch.tensor([cell.noise_level]),
            captions=[held_out.caption],
            names=[held_out.name],
            is_latent=True,
            text=None if encode is None else encode([held_out.caption]),
        )
        return batch.to(device)

    def _latents_of(self, clip: int, scale: int, device: torch.device) -> Tensor:
        """Encode a clip to 1 c f h w; downscaled and enlarged first where `scale` is not 1."""
        if (clip, scale) not in self._latents:
            frames = self.clips[clip].frames[: self.config.longest].float() / 127.5 - 1
            if scale > 1:
                frames = degrade(frames, scale, self.preset.model.upsampling, self._downscaling)
            latents = self.encoders.pixels(frames[None].to(device), _generator(scale, clip))
            self._latents[clip, scale] = latents.cpu()
        return self._latents[clip, scale]

    @property
    def _downscaling(self) -> Upsampling:
        """Kernel that most training clips are downscaled with."""
        return "bicubic" if self.config.bicubic_share > 0.5 else "bilinear"


def _generator(*seeds: int) -> torch.Generator:
    """Make the noise generator that belongs to these numbers."""
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    return torch.Generator().manual_seed(seed)


def psnr_of(denoised: Tensor, clean: Tensor, encoders: Encoders) -> float | None:
    """Compute the PSNR in dB of decoded x_0 (b c f h w); None where decoding is not free."""
    if encoders.decode is None:
        return None
    made, true = (
        encoders.decode(rearrange(x.float(), "b c f h w -> (b f) c h w")).clamp(-1, 1)
        for x in (denoised, clean)
    )
    return float(-10 * torch.log10(((made - true) / 2).square().mean().clamp(min=1e-10)))


def mean_score(scores: Sequence[Score]) -> Score:
    """Average loss and PSNR."""
    psnrs = [score.psnr for score in scores if score.psnr is not None]
    return Score(
        sum(score.loss for score in scores) / len(scores),
        sum(psnrs) / len(psnrs) if psnrs else None,
    )


def mean_loss(scores: Scores) -> float:
    """Average the loss over all cells, with equal weights."""
    return sum(score.loss for score in scores.values()) / len(scores)


def worst(scores: Scores, first: Scores | None = None) -> tuple[Cell, float]:
    """Find the cell whose loss fell least from `first`, and the share of the loss that is left.

    Without `first`, find the cell of the largest loss, and that loss.
    """
    shares = {
        cell: score.loss / first[cell].loss if first else score.loss
        for cell, score in scores.items()
    }
    cell = max(shares, key=lambda cell: shares[cell])
    return cell, shares[cell]


def to_record(step: int, scores: Scores) -> dict[str, Any]:
    """Make a line of RUN/validation.jsonl."""
    cells = []
    for cell, score in scores.items():
        values = {**dataclasses.asdict(cell), **dataclasses.asdict(score)}
        cells.append({name: value for name, value in values.items() if value is not None})
    return {"step": step, "mean": mean_loss(scores), "cells": cells}


def from_record(record: Mapping[str, Any]) -> dict[Cell, Score]:
    """Read back the scores that `to_record` was given."""
    return {
        Cell(found["stride"], found["scale"], found["noise_level"]): Score(
            found["loss"], found.get("psnr")
        )
        for found in record["cells"]
    }


def describe(scores: Scores, first: Scores | None = None) -> str:
    """Describe mean and worst cell in a line, then strides by scales for each noise level."""
    cell, share = worst(scores, first)
    measure = "of its first loss" if first else "loss"
    lines = [f"validation: mean loss {mean_loss(scores):.4f}, worst {cell}: {share:.3f} {measure}"]
    for level in sorted({cell.noise_level for cell in scores}):
        part = {cell: score for cell, score in scores.items() if cell.noise_level == level}
        lines += ["", f"noise level {level}", *_table(part)]
    return "\n".join(lines)


def _table(scores: Scores) -> Iterator[str]:
    scales = sorted({cell.scale for cell in scores})
    yield "stride" + "".join(f"{f'{scale}x':>18}" for scale in scales)
    for stride, cells in itertools.groupby(sorted(scores), key=lambda cell: cell.stride):
        yield f"{stride:>6}" + "".join(f"{_words(scores[cell]):>18}" for cell in cells)


def _words(score: Score) -> str:
    psnr = "" if score.psnr is None else f" {score.psnr:.2f} dB"
    return f"{score.loss:.4f}{psnr}"


SQUARE = 24  # pixels of a cell in the picture


def picture(scores: Scores, first: Scores | None = None) -> Frame:
    """Draw the grid as squares: H W 3; darker is less loss.

    White is the loss of `first`, or the worst loss. The noise levels are side by side, each a block
    of strides by scales.
    """
    whole = worst(scores)[1]
    rows: dict[int, list[float]] = {}
    for cell in sorted(scores, key=lambda cell: (cell.noise_level, cell.scale)):
        share = scores[cell].loss / (first[cell].loss if first else whole)
        rows.setdefault(cell.stride, []).append(min(share, 1.0))
    values = np.array([rows[stride] for stride in sorted(rows)])
    grey = (255 * values).astype(np.uint8).repeat(SQUARE, 0).repeat(SQUARE, 1)
    return np.repeat(grey[..., None], 3, axis=2)
