"""The networks in PyTorch: the oracle that every other backend is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from venhancer.conditioning import Conditions, dense_hint
from venhancer.diffusion import solver
from venhancer.diffusion.guidance import guide
from venhancer.diffusion.schedule import denoised_from
from venhancer.diffusion.solver import frame_noise
from venhancer.model import lapped
from venhancer.model.denoiser import Denoiser
from venhancer.pipeline import Progress
from venhancer.plan import Sampling
from venhancer.prompts import NEGATIVE, POSITIVE
from venhancer.windows import Span, weights


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


@dataclass(frozen=True, slots=True)
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
    """`Networks` by eager PyTorch, one window and one tile at a time."""

    decode_chunk = 3  # frames, as the release decodes them

    def __init__(
        self,
        model: Denoiser,
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
        self, start: Tensor, conditions: Conditions, sampling: Sampling, progress: Progress
    ) -> Tensor:
        """Windows and tiles meet on x_0 at every step, so the solver sees one video."""
        steps = sampling.schedule
        table = solver.solver_table(steps.sigmas, sampling.eta)
        evaluations = list(parts(sampling))
        x = start * float(steps.sigmas[0])
        previous, denoised = torch.zeros_like(x), torch.zeros_like(x)
        for i, row in enumerate(table):
            denoised.zero_()
            seen_by_network = float((1 + steps.sigmas[i] ** 2).rsqrt())
            for number, part in enumerate(evaluations):
                noisy = part.cut(x) * seen_by_network
                x0 = self.denoise(noisy, int(steps.timesteps[i]), part, conditions, sampling)
                part.cut(denoised).add_(x0 * part.share)
                progress(
                    "denoise", i * len(evaluations) + number + 1, len(table) * len(evaluations)
                )
            advance(x, denoised, previous, row, sampling.seed, i)
            previous, denoised = denoised, previous
        return x

    def denoise(
        self, noisy: Tensor, timestep: int, part: Part, conditions: Conditions, sampling: Sampling
    ) -> Tensor:
        """Guided x_0 of one part: f c h w -> f c h w."""
        latents = noisy.transpose(0, 1)[None].to(self.device)
        is_guided = sampling.is_guided(timestep)
        text = conditions.text
        if text is not None and not is_guided:
            text = text[:1]
        out = self._evaluate(latents, timestep, part, conditions, text)
        if is_guided:
            out = guide(out[:1], out[1:], sampling.guidance)
        sigma = self.model.sigmas[timestep]
        x0 = denoised_from(self.model.config.prediction, out, latents, sigma)
        return x0[0].transpose(0, 1).cpu()

    def _evaluate(
        self,
        latents: Tensor,
        timestep: int,
        part: Part,
        conditions: Conditions,
        text: Tensor | None,
    ) -> Tensor:
        """The network on one part, both branches of guidance as one batch."""
        hint, is_key = dense_hint(conditions, part.frames.start, part.frames.stop)
        hint = hint[..., part.rows.start : part.rows.stop, part.columns.start : part.columns.stop]
        batch = 1 if text is None else len(text)
        out: Tensor = self.model(
            latents=latents.expand(batch, -1, -1, -1, -1),
            timestep=torch.full((batch,), timestep, device=self.device),
            hint=hint.to(self.device).expand(batch, -1, -1, -1, -1),
            is_key=is_key.to(self.device).expand(batch, -1),
            noise_level=torch.full((batch,), float(conditions.noise_level), device=self.device),
            scale=torch.full((batch,), conditions.scale, device=self.device),
            text=None if text is None else text.to(self.device),
        )
        return out


def advance(
    x: Tensor, denoised: Tensor, previous: Tensor, row: Tensor, seed: int, step: int
) -> None:
    """One solver step in place, frame by frame, so that no second copy of the noise is held."""
    has_noise = float(row[3]) > 0
    for j in range(len(x)):
        noise = frame_noise(x.shape[1:], seed, f"step {step}", j) if has_noise else x.new_zeros(())
        x[j] = solver.step(x[j], denoised[j], previous[j], noise, row)
