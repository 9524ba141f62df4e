"""Evaluation of the network on one window and tile: guided x_0, in buffers that stay allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from venhancer.config import ModelConfig
from venhancer.contract import TensorSpec, noisy_inputs, told_inputs
from venhancer.diffusion.guidance import guide
from venhancer.diffusion.schedule import denoised_from
from venhancer.model.denoiser import Prepared
from venhancer.model.unet import Keep
from venhancer.planning.plan import Sampling
from venhancer.sampling.coarse_features import CoarseFeatures


class Model(Protocol):
    """Interface that `Denoiser` and `StaticDenoiser` have in common."""

    config: ModelConfig
    sigmas: Tensor  # one for every timestep

    def prepare_text(self, text: Tensor | None) -> Tensor | None:
        """Compute text features, once a run: b l d -> b l t."""

    def prepare(
        self,
        *,
        hint: Tensor,
        is_key: Tensor,
        noise_level: Tensor,
        scale: Tensor,
        neighbours: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> Prepared:
        """Compute everything that does not depend on the timestep.

        hint b c f h w, is_key b f, noise_level (b), scale (b), neighbours b n f h w where the model
        sees any
        """

    def step(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        """Evaluate: latents 1 c f h w, timestep (1) -> b c f h w, v or x_0 for every text."""


@runtime_checkable
class ReusingModel(Model, Protocol):
    """Model that can compute its finest level alone."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the features."""

    def step(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, keep: Keep | None = None
    ) -> Tensor:
        """Evaluate; keep: called with the coarse features (b f) c h w."""

    def step_reusing(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, coarse: Tensor
    ) -> Tensor:
        """Evaluate as `step` does, with the coarse features of an earlier step."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Inputs of the controller that hold for the whole clip."""

    refine: int  # noise_aug of the key frames; 0 is none
    scale: float  # conditioning scale s
    text: Tensor | None = None  # 2 l d: prompt, then negative prompt; 1 l d without guidance

    @property
    def noise_level(self) -> int:
        return max(self.refine - 1, 0)


class Evaluation:
    """Evaluation in buffers by the contract: inputs `latents` and `shown` (1 c f h w), output `x0`.

    shown: the hint's channels, then those of its neighbours
    """

    def __init__(
        self,
        model: Model,
        sampling: Sampling,
        conditions: Conditions,
        text_features: Tensor | None,
        frames: int,
        device: str,
        coarse: CoarseFeatures | None = None,
    ) -> None:
        letters = {"b": 1, "f": frames, "h": len(sampling.rows[0]), "w": len(sampling.columns[0])}
        specs = (*noisy_inputs(model.config), *told_inputs())
        buffers = allocate(specs, letters, device)
        steps = sampling.schedule
        self.model = model
        self.guidance = sampling.guidance
        self.text_features = text_features
        self.coarse = coarse
        self.latents = buffers["latents"]
        channels, neighbours = self.latents.shape[1], model.config.neighbour_channels
        size = self.latents.shape[2:]
        self.shown = torch.zeros(1, channels + neighbours, *size, device=device)
        self.hint = self.shown[:, :channels]
        self.neighbours = self.shown[:, channels:] if neighbours else None
        self.is_key = buffers["is_key"]
        self.is_key[:, :: sampling.key_stride] = 1
        self.noise_level = buffers["noise_level"].fill_(conditions.noise_level)
        self.scale = buffers["scale"].fill_(conditions.scale)
        self.x0 = torch.zeros_like(self.latents)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.timesteps = steps.timesteps.to(device)
        self.sigmas = model.sigmas.cpu()[steps.timesteps].to(device)
        self.seen = (1 + steps.sigmas[:-1] ** 2).rsqrt().float().to(device)
        self.prepared: Prepared | None = None

    def prepare(self) -> None:
        """Compute what does not depend on the timestep, into the tensors of the first call."""
        made = self.model.prepare(
            hint=self.hint,
            is_key=self.is_key,
            noise_level=self.noise_level,
            scale=self.scale,
            neighbours=self.neighbours,
            text_features=self.text_features,
        )
        if self.prepared is None:
            self.prepared = made
        kept = self.prepared
        for own, new in (
            (kept.hint_features, made.hint_features),
            (kept.condition, made.condition),
        ):
            _copy(own, new)
        if kept.anchor is not None and made.anchor is not None:
            _copy(kept.anchor, made.anchor)

    def run(self, is_guided: bool, is_reusing: bool = False) -> None:
        """Compute `x0` from `latents` at `step`; the branches share the layers before the text.

        is_reusing: take the coarse features that an earlier step kept
        """
        noisy = self.latents * self.seen.index_select(0, self.step)
        timestep = self.timesteps.index_select(0, self.step)
        out = self._network(noisy, timestep, self._read(is_guided), is_reusing)
        if is_guided:  # without a text both branches have the same output
            out = guide(out[:1], out[-1:], self.guidance)
        sigma = self.sigmas.index_select(0, self.step)
        self.x0.copy_(denoised_from(self.model.config.prediction, out, noisy, sigma))

    def _read(self, is_guided: bool) -> Prepared:
        """Return the prepared tensors with the texts of the evaluated branches only."""
        assert self.prepared is not None
        if is_guided or self.text_features is None:
            return self.prepared
        return replace(self.prepared, text_features=self.text_features[:1])

    def _network(
        self, noisy: Tensor, timestep: Tensor, prepared: Prepared, is_reusing: bool
    ) -> Tensor:
        if self.coarse is None:
            return self.model.step(noisy, timestep, prepared)
        assert isinstance(self.model, ReusingModel)
        if is_reusing:
            text, frames = prepared.text_features, noisy.shape[2]
            kept = self.coarse.get(frames * (1 if text is None else len(text)))
            return self.model.step_reusing(noisy, timestep, prepared, kept)
        return self.model.step(noisy, timestep, prepared, self.coarse.put)


def _copy(own: Tensor, new: Tensor) -> None:
    if own is not new:
        own.copy_(new)


def allocate(
    specs: Sequence[TensorSpec], letters: dict[str, int], device: str
) -> dict[str, Tensor]:
    """Allocate a zeroed buffer for every tensor, by name."""
    return {
        spec.name: torch.zeros(spec.shape(letters), dtype=getattr(torch, spec.dtype), device=device)
        for spec in specs
    }
