"""`Networks` over one model: the loop over steps, windows and tiles, written once.

With `Denoiser` it is the oracle that every other backend is compared with; with `StaticDenoiser`,
a bundle's networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from venhancer.conditioning import Conditions, dense_hint
from venhancer.config import ModelConfig
from venhancer.contract import DECODED_FRAMES
from venhancer.diffusion import solver
from venhancer.diffusion.guidance import guide
from venhancer.diffusion.schedule import denoised_from
from venhancer.diffusion.solver import frame_noise
from venhancer.model import lapped
from venhancer.model.denoiser import Prepared
from venhancer.pipeline import Progress
from venhancer.plan import Sampling
from venhancer.prompts import NEGATIVE, POSITIVE
from venhancer.state import Journal, SolverState
from venhancer.windows import Span, weights


class Model(Protocol):
    """What `Denoiser` and `StaticDenoiser` have in common."""

    config: ModelConfig
    sigmas: Tensor  # of every timestep

    def prepare_text(self, text: Tensor | None) -> Tensor | None:
        """b l d -> b l t, once a run."""

    def prepare(
        self,
        *,
        hint: Tensor,
        is_key: Tensor,
        noise_level: Tensor,
        scale: Tensor,
        text_features: Tensor | None = None,
    ) -> Prepared:
        """hint b c f h w, is_key b f, noise_level (b), scale (b): once for every timestep."""

    def step(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        """One evaluation: latents b c f h w, timestep (b) -> b c f h w, v or x_0."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A window of the grid, a tile of its frames, and how much each position counts there."""

    frames: Span
    rows: Span
    columns: Span
    share: Tensor  # f 1 h w

    def cut(self, latents: Tensor) -> Tensor:
        """f c h w -> the view of this part."""
        return latents[
            self.frames.start : self.frames.stop,
            :,
            self.rows.start : self.rows.stop,
            self.columns.start : self.columns.stop,
        ]


def parts(sampling: Sampling) -> Iterator[Part]:
    """All windows and tiles, one at a time; their shares sum to one at every position."""
    axes = (sampling.windows, sampling.rows, sampling.columns)
    frames, rows, columns = (
        [torch.tensor(w) for w in weights(list(a), sampling.join)] for a in axes
    )
    for window, f in zip(sampling.windows, frames, strict=True):
        for row, h in zip(sampling.rows, rows, strict=True):
            for column, w in zip(sampling.columns, columns, strict=True):
                share = f[:, None, None, None] * h[:, None] * w
                yield Part(window, row, column, share)


class Reference:
    """One window and one tile at a time, on one device."""

    decode_chunk = DECODED_FRAMES

    def __init__(
        self,
        model: Model,
        codec: Codec,
        text_encoder: TextEncoder | None = None,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        self.model = model
        self.codec = codec
        self.text_encoder = text_encoder
        self.device = device
        self.seed = seed

    def encode_text(self, prompt: str, *, is_guided: bool) -> Tensor | None:
        if self.text_encoder is None:
            return None
        prompts = [f"{prompt} {POSITIVE}".strip(), *([NEGATIVE] if is_guided else [])]
        return torch.cat([self.text_encoder.encode(p) for p in prompts])

    def encode(self, frames: Tensor, first: int) -> Tensor:
        generator = torch.Generator()
        latents = []
        for i, frame in enumerate(frames):
            generator.manual_seed(solver.seed_of(self.seed, "encode", first + i))
            latents.append(self.codec.encode(frame[None].to(self.device), generator))
        return torch.cat(latents).float().cpu()

    def decode(self, latents: Tensor) -> Tensor:
        return self.codec.decode(latents.to(self.device)).float().cpu()

    def sample(
        self,
        state: SolverState,
        conditions: Conditions,
        sampling: Sampling,
        progress: Progress,
        journal: Journal,
    ) -> Tensor:
        """Windows and tiles meet on x_0 at every step, so the solver sees one video."""
        steps = sampling.schedule
        table = solver.solver_table(steps.sigmas, sampling.eta)
        evaluations = list(parts(sampling))
        total = len(table) * len(evaluations)
        prepare = self._preparer(conditions, is_single=len(evaluations) == 1)
        denoised = torch.empty_like(state.x)
        for i in range(state.step, len(table)):
            denoised.zero_()
            seen_by_network = float((1 + steps.sigmas[i] ** 2).rsqrt())
            timestep = int(steps.timesteps[i])
            for number, part in enumerate(evaluations):
                noisy = part.cut(state.x) * seen_by_network
                prepared = prepare(part, sampling.is_guided(timestep))
                x0 = self.denoise(noisy, timestep, prepared, sampling)
                part.cut(denoised).add_(x0 * part.share)
                progress("denoise", i * len(evaluations) + number + 1, total)
            advance(state.x, denoised, state.previous, table[i], sampling.seed, i)
            state.previous, denoised = denoised, state.previous
            state.step = i + 1
            journal.keep(state, is_last=state.step == len(table))
        return state.x

    def denoise(
        self, noisy: Tensor, timestep: int, prepared: Prepared, sampling: Sampling
    ) -> Tensor:
        """Guided x_0 of one part, both branches as one batch: f c h w -> f c h w."""
        latents = noisy.transpose(0, 1)[None].to(self.device)
        is_guided = sampling.is_guided(timestep)
        batch = 2 if is_guided else 1
        at = torch.full((batch,), timestep, device=self.device)
        out = self.model.step(latents.expand(batch, -1, -1, -1, -1), at, prepared)
        if is_guided:
            out = guide(out[:1], out[1:], sampling.guidance)
        sigma = self.model.sigmas[timestep]
        x0 = denoised_from(self.model.config.prediction, out, latents, sigma)
        return x0[0].transpose(0, 1).cpu()

    def _preparer(
        self, conditions: Conditions, is_single: bool
    ) -> Callable[[Part, bool], Prepared]:
        """What does not depend on the timestep: text once a run, the hint once where there is
        but one part, else with each part again, which is cheap and keeps memory flat.
        """
        text = conditions.text if conditions.text is None else conditions.text.to(self.device)
        guided = self.model.prepare_text(text)
        alone = self.model.prepare_text(text if text is None else text[:1])

        def prepare(part: Part, is_guided: bool) -> Prepared:
            return self._prepare(part, conditions, guided if is_guided else alone, is_guided)

        return cache(prepare) if is_single else prepare

    def _prepare(
        self, part: Part, conditions: Conditions, text_features: Tensor | None, is_guided: bool
    ) -> Prepared:
        batch = 2 if is_guided else 1
        hint, is_key = dense_hint(conditions, part.frames.start, part.frames.stop)
        hint = hint[..., part.rows.start : part.rows.stop, part.columns.start : part.columns.stop]
        return self.model.prepare(
            hint=hint.to(self.device).expand(batch, -1, -1, -1, -1),
            is_key=is_key.to(self.device).expand(batch, -1),
            noise_level=torch.full((batch,), float(conditions.noise_level), device=self.device),
            scale=torch.full((batch,), conditions.scale, device=self.device),
            text_features=text_features,
        )


def advance(
    x: Tensor, denoised: Tensor, previous: Tensor, row: Tensor, seed: int, step: int
) -> None:
    """One solver step in place, frame by frame, so that no second copy of the noise is held."""
    has_noise = float(row[3]) > 0
    for j in range(len(x)):
        noise = frame_noise(x.shape[1:], seed, f"step {step}", j) if has_noise else x.new_zeros(())
        x[j] = solver.step(x[j], denoised[j], previous[j], noise, row)
