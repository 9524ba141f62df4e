"""The PyTorch path of the release: the same network as a user of its code would run it.

The layers have the release's order of operations, over our weights: nothing is channels last,
convolutions over frames are (3,1,1) ones, and the text's keys and values are computed for every
frame; x: (b f) c h w throughout. The model is eager, with float32 weights (on CUDA under float16
autocast) and SDPA; both branches of guidance run one after the other; hint, embeddings and the
text's keys and values are computed anew at every evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from venhancer.config import Preset
from venhancer.diffusion.schedule import alpha_sigma
from venhancer.model import attention, layers, unet
from venhancer.model.controller import Controller
from venhancer.model.denoiser import Denoiser, Prepared, UNetDenoiser, fill_between_keys


def plain_conv(ours: nn.Module) -> nn.Conv2d:
    """Make a convolution with the same weights, in PyTorch's default layout."""
    assert isinstance(ours, nn.Conv2d)
    made = nn.Conv2d(
        ours.in_channels,
        ours.out_channels,
        ours.kernel_size,  # type: ignore[arg-type]
        ours.stride,  # type: ignore[arg-type]
        ours.padding,  # type: ignore[arg-type]
        device="meta",
    )
    weight = torch.empty_like(ours.weight, memory_format=torch.contiguous_format)
    made.weight = nn.Parameter(weight.copy_(ours.weight), requires_grad=False)
    made.bias = ours.bias
    return made


def plain_conv3d(ours: nn.Module) -> nn.Conv3d:
    """Make the (3,1) convolution over frames and pixels a (3,1,1) one."""
    flat = plain_conv(ours)
    channels = flat.in_channels
    made = nn.Conv3d(channels, flat.out_channels, (3, 1, 1), padding=(1, 0, 0), device="meta")
    made.weight = nn.Parameter(flat.weight.unsqueeze(-1), requires_grad=False)
    made.bias = flat.bias
    return made


class TemporalConv(nn.Module):
    """The plain form of `layers.TemporalConv`."""

    def __init__(self, ours: layers.TemporalConv) -> None:
        super().__init__()
        self.norms = ours.norms
        self.convs = nn.ModuleList(plain_conv3d(conv) for conv in ours.convs)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        clip = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        out = clip
        for norm, conv in zip(self.norms, self.convs, strict=True):
            out = conv(F.silu(norm(out)))
        return rearrange(clip + out, "b c f h w -> (b f) c h w")


class ResBlock(nn.Module):
    """The plain form of `layers.ResBlock`; embedding: (b f) e."""

    def __init__(self, ours: layers.ResBlock) -> None:
        super().__init__()
        self.norm_in, self.norm_out, self.embed = ours.norm_in, ours.norm_out, ours.embed
        self.conv_in, self.conv_out = plain_conv(ours.conv_in), plain_conv(ours.conv_out)
        self.skip = plain_conv(ours.skip) if isinstance(ours.skip, nn.Conv2d) else ours.skip
        self.temporal = TemporalConv(ours.temporal)

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        out = self.conv_in(F.silu(self.norm_in(x)))
        out = out + self.embed(F.silu(embedding))[:, :, None, None]
        out = self.conv_out(F.silu(self.norm_out(out)))
        return self.temporal(self.skip(x) + out, frames)


def attend(ours: attention.Attention, x: Tensor, context: Tensor) -> Tensor:
    """x: b l c, context: b m d -> b l c."""
    projected = ours.query(x), ours.key(context), ours.value(context)
    q, k, v = (rearrange(t, "b l (n c) -> b n l c", c=ours.head_channels) for t in projected)
    return ours.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b n l c -> b l (n c)"))


def transform(block: attention.TransformerBlock, x: Tensor, context: Tensor | None) -> Tensor:
    """Apply a block, x: b l c -> b l c; without context the second attention is to x itself."""
    first = block.norm_first(x)
    x = x + attend(block.first, first, first)
    second = block.norm_second(x)
    x = x + attend(block.second, second, second if context is None else context)
    value, gate = block.feed.widen(block.norm_feed(x)).chunk(2, dim=-1)
    return x + block.feed.narrow(value * F.gelu(gate))


class Transformer(nn.Module):
    """The parts that both kinds of transformer share."""

    def __init__(self, ours: attention.SpatialTransformer | attention.TemporalTransformer) -> None:
        super().__init__()
        self.norm, self.block = ours.norm, ours.block
        self.project_in, self.project_out = ours.project_in, ours.project_out


class SpatialTransformer(Transformer):
    """The plain form of `attention.SpatialTransformer`; text: (b f) l d."""

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        tokens = self.project_in(rearrange(self.norm(x), "b c h w -> b (h w) c").contiguous())
        tokens = self.project_out(transform(self.block, tokens, text))
        return x + rearrange(tokens, "b (h w) c -> b c h w", h=h, w=w).contiguous()


class TemporalTransformer(Transformer):
    """The plain form of `attention.TemporalTransformer`."""

    def forward(self, x: Tensor, frames: int) -> Tensor:
        h, w = x.shape[-2:]
        clip = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        tokens = rearrange(self.norm(clip), "b c f h w -> (b h w) f c").contiguous()
        tokens = self.project_out(transform(self.block, self.project_in(tokens), None))
        out = rearrange(tokens, "(b h w) f c -> b c f h w", h=h, w=w).contiguous()
        return rearrange(clip + out, "b c f h w -> (b f) c h w")


class Upsample(nn.Module):
    """The plain form of `layers.Upsample`."""

    def __init__(self, ours: layers.Upsample) -> None:
        super().__init__()
        self.extra_rows, self.conv = ours.extra_rows, plain_conv(ours.conv)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x[:, :, self.extra_rows : x.shape[-2] - self.extra_rows])


class Stage(nn.Module):
    """The plain form of `unet.Stage`; embedding: (b f) e, text: (b f) l d."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        assert isinstance(ours, unet.Stage)
        self.resblock = ResBlock(ours.resblock)
        self.spatial = SpatialTransformer(ours.spatial) if ours.spatial else None
        self.temporal = TemporalTransformer(ours.temporal) if ours.temporal else None
        self.upsample = Upsample(ours.upsample) if ours.upsample else None

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None, frames: int) -> Tensor:
        x = self.resblock(x, embedding, frames)
        if self.spatial is not None:
            assert text is not None
            x = self.spatial(x, text)
        if self.temporal is not None:
            x = self.temporal(x, frames)
        return x if self.upsample is None else self.upsample(x)


class Encoder(nn.Module):
    """The plain form of `unet.Encoder`; hint, added after the first convolution: (b f) c h w."""

    def __init__(self, ours: unet.Encoder) -> None:
        super().__init__()
        first = ours.input.temporal
        self.conv = plain_conv(ours.input.conv)
        self.temporal = TemporalTransformer(first) if first else None
        self.stages = nn.ModuleList(
            plain_conv(stage) if isinstance(stage, layers.Downsample) else Stage(stage)
            for stage in ours.stages
        )

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        text: Tensor | None,
        frames: int,
        hint: Tensor | None = None,
    ) -> list[Tensor]:
        x = self.conv(x) if hint is None else self.conv(x) + hint
        outputs = [x if self.temporal is None else self.temporal(x, frames)]
        for stage in self.stages:
            is_plain = isinstance(stage, nn.Conv2d)
            given = () if is_plain else (embedding, text, frames)
            outputs.append(stage(outputs[-1], *given))
        return outputs


class Middle(nn.Module):
    """The plain form of `unet.Middle`."""

    def __init__(self, ours: unet.Middle) -> None:
        super().__init__()
        self.stage, self.resblock = Stage(ours.stage), ResBlock(ours.resblock)

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None, frames: int) -> Tensor:
        return self.resblock(self.stage(x, embedding, text, frames), embedding, frames)


class UNet(nn.Module):
    """The plain `unet.UNet`; control: the controller's residuals, finest first, middle last."""

    def __init__(self, ours: unet.UNet) -> None:
        super().__init__()
        self.encoder, self.middle = Encoder(ours.encoder), Middle(ours.middle)
        self.stages = nn.ModuleList(Stage(stage) for stage in ours.decoder.stages)
        self.norm, self.head = ours.norm, plain_conv(ours.head)

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        text: Tensor | None,
        frames: int,
        control: Sequence[Tensor],
    ) -> Tensor:
        skips = self.encoder(x, embedding, text, frames)
        *residuals, middle = control
        x = self.middle(skips[-1], embedding, text, frames) + middle
        for stage, skip, extra in zip(self.stages, skips[::-1], residuals[::-1], strict=True):
            x = stage(torch.cat([x, skip + extra], dim=1), embedding, text, frames)
        return self.head(F.silu(self.norm(x)))


# --- the model ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """The inputs of one branch for its window."""

    text: Tensor | None  # 1 l d
    hint: Tensor  # 1 c f h w
    is_key: Tensor  # 1 f
    noise_level: Tensor  # (1)
    scale: Tensor  # (1)

    @classmethod
    def of(cls, prepared: Prepared, text: Tensor | None) -> Shown:
        """Make the inputs from those that `PlainModel.prepare` kept, with the branch's text."""
        told = prepared.condition
        return cls(text, prepared.hint_features, told[:, :-2], told[:, -2], told[:, -1])


def check_has_plain(preset: Preset) -> None:
    """Exit with SystemExit if the release does not have the preset's body."""
    if preset.model.unet.body != "unet":
        raise SystemExit(
            f"--baseline pytorch: the release's path is of a 3D-UNet, and {preset.name} has a "
            f"{preset.model.unet.body} body: leave the baseline out"
        )


class PlainController(nn.Module):
    """The plain form of `Controller`."""

    def __init__(self, ours: Controller) -> None:
        super().__init__()
        self.time_embedding = ours.time_embedding
        self.noise_level_embedding = ours.noise_level_embedding
        self.scale_embedding = ours.scale_embedding
        self.hint_conv = plain_conv(ours.hint_conv)
        self.encoder = Encoder(ours.encoder)
        self.middle = Middle(ours.middle)
        self.zero_convs = nn.ModuleList(map(plain_conv, ours.zero_convs))
        self.zero_conv_middle = plain_conv(ours.zero_conv_middle)

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

    `prepare` only stores its inputs, `step` does all work: `hint_features` is the hint, `condition`
    holds the key-frame mask, the noise level and the scale (b (f + 2)), `text_features` the text.
    """

    def __init__(self, ours: Denoiser) -> None:
        assert isinstance(ours, UNetDenoiser)
        self.config = ours.config
        self.sigmas = ours.sigmas
        self.is_sample = ours.config.prediction == "sample"
        self.time_embedding = ours.time_embedding
        self.controller = PlainController(ours.controller)
        self.unet = UNet(ours.unet)

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
        """Evaluate text by text, the conditional one first: latents 1 c f h w -> b c f h w."""
        text = prepared.text_features
        texts = [None] if text is None else list(text.split(1))
        evaluate = self._corrected if self.is_sample else self._network
        return torch.cat([evaluate(latents, timestep, Shown.of(prepared, text)) for text in texts])

    def _corrected(self, latents: Tensor, timestep: Tensor, shown: Shown) -> Tensor:
        """Correct the prediction as `Denoiser.step` does for a model that predicts x_0."""
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
    """Use float16 on CUDA; a CPU computes in the type of the weights."""
    return torch.autocast("cuda", torch.float16) if device == "cuda" else nullcontext()
