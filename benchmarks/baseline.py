"""The PyTorch path of the release: the same network as whoever has its code would run it.

Eager, float32 weights (on CUDA under float16 autocast), SDPA; both branches of guidance one after
the other; hint, embeddings and the text's keys and values anew at every evaluation.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from benchmarks import plain_layers
from venhancer.config import Preset
from venhancer.diffusion.schedule import alpha_sigma
from venhancer.model.controller import Controller
from venhancer.model.denoiser import Denoiser, Prepared, UNetDenoiser, fill_between_keys


@dataclass(frozen=True, slots=True)
class Shown:
    """What one branch is shown of its window."""

    text: Tensor | None  # 1 l d
    hint: Tensor  # 1 c f h w
    is_key: Tensor  # 1 f
    noise_level: Tensor  # (1)
    scale: Tensor  # (1)

    @classmethod
    def of(cls, prepared: Prepared, text: Tensor | None) -> Shown:
        """Out of what `PlainModel.prepare` kept, with the text of the branch."""
        told = prepared.condition
        return cls(text, prepared.hint_features, told[:, :-2], told[:, -2], told[:, -1])


def check_has_plain(preset: Preset) -> None:
    """SystemExit for a preset whose body the release does not have."""
    if preset.model.unet.body != "unet":
        raise SystemExit(
            f"--baseline pytorch: the release's path is of a 3D-UNet, and {preset.name} has a "
            f"{preset.model.unet.body} body: leave the baseline out"
        )


class PlainController(nn.Module):
    """Of `Controller`."""

    def __init__(self, ours: Controller) -> None:
        super().__init__()
        self.time_embedding = ours.time_embedding
        self.noise_level_embedding = ours.noise_level_embedding
        self.scale_embedding = ours.scale_embedding
        self.hint_conv = plain_layers.plain_conv(ours.hint_conv)
        self.encoder = plain_layers.Encoder(ours.encoder)
        self.middle = plain_layers.Middle(ours.middle)
        self.zero_convs = nn.ModuleList(map(plain_layers.plain_conv, ours.zero_convs))
        self.zero_conv_middle = plain_layers.plain_conv(ours.zero_conv_middle)

    def forward(
        self, x: Tensor, timestep: Tensor, text: Tensor | None, hint: Tensor, shown: Shown
    ) -> list[Tensor]:
        """text: (b f) l d, hint: (b f) c h w, convolved -> the residuals, the middle's last."""
        frames = shown.is_key.shape[1]
        gain = self.noise_level_embedding(self.time_embedding(shown.noise_level))
        gain = (gain + self.scale_embedding(shown.scale)).repeat_interleave(frames, dim=0)
        embedding = self.time_embedding(timestep).repeat_interleave(frames, dim=0)
        embedding = embedding + gain * shown.is_key.reshape(-1, 1)
        outputs = self.encoder(x, embedding, text, frames, hint)
        middle = self.middle(outputs[-1], embedding, text, frames)
        residuals = [conv(out) for conv, out in zip(self.zero_convs, outputs, strict=True)]
        return [*residuals, self.zero_conv_middle(middle)]


class PlainModel:
    """An `evaluation.Model` over the weights of one in float32.

    What is prepared is only kept, `step` does everything: `hint_features` is the hint, `condition`
    which frames are keys, the noise level and the scale (b (f + 2)), `text_features` the text.
    """

    def __init__(self, ours: Denoiser) -> None:
        assert isinstance(ours, UNetDenoiser)
        self.config = ours.config
        self.sigmas = ours.sigmas
        self.is_sample = ours.config.prediction == "sample"
        self.time_embedding = ours.time_embedding
        self.controller = PlainController(ours.controller)
        self.unet = plain_layers.UNet(ours.unet)

    def prepare_text(self, text: Tensor | None) -> Tensor | None:
        return text

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
        assert neighbours is None, "the release's network sees none"
        told = torch.cat([is_key, noise_level[:, None], scale[:, None]], dim=1)
        return Prepared(hint.clone(), told, text_features)

    def step(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        """Text by text, the conditional one first: latents 1 c f h w -> b c f h w."""
        text = prepared.text_features
        texts = [None] if text is None else list(text.split(1))
        evaluate = self._corrected if self.is_sample else self._network
        return torch.cat([evaluate(latents, timestep, Shown.of(prepared, text)) for text in texts])

    def _corrected(self, latents: Tensor, timestep: Tensor, shown: Shown) -> Tensor:
        """As `Denoiser.step` does where the model predicts x_0."""
        dimmed, _ = alpha_sigma(self.sigmas, shown.noise_level.long(), latents.ndim)
        anchor = fill_between_keys(shown.hint, shown.is_key) / dimmed
        sigma = self.sigmas[timestep][:, None, None, None, None]
        alpha, spread = (1 - sigma**2).clamp(min=0).sqrt(), self.config.residual_std
        total = (alpha**2 * spread**2 + sigma**2).sqrt()
        known = alpha * spread**2 / total**2 * (latents - alpha * anchor)
        filled = Shown(shown.text, anchor, shown.is_key, shown.noise_level, shown.scale)
        rest = self._network(known / spread, timestep, filled)
        return anchor + known + spread * sigma / total * rest

    def _network(self, latents: Tensor, timestep: Tensor, shown: Shown) -> Tensor:
        frames = latents.shape[2]
        x, hint = (rearrange(t, "b c f h w -> (b f) c h w") for t in (latents, shown.hint))
        text = None if shown.text is None else shown.text.repeat_interleave(frames, dim=0)
        with autocast(latents.device.type):
            hint = self.controller.hint_conv(hint.contiguous())
            if not self.is_sample:
                hint = hint * shown.is_key.reshape(-1, 1, 1, 1).to(hint.dtype)
            control = self.controller(x.contiguous(), timestep, text, hint, shown)
            embedding = self.time_embedding(timestep).repeat_interleave(frames, dim=0)
            out = self.unet(x.contiguous(), embedding, text, frames, control)
        return rearrange(out, "(b f) c h w -> b c f h w", f=frames).to(latents.dtype)


def autocast(device: str) -> AbstractContextManager[Any]:
    """float16 on CUDA; a CPU computes as the weights are."""
    return torch.autocast("cuda", torch.float16) if device == "cuda" else nullcontext()
