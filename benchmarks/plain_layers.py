"""The network's layers in the release's order of operations, over the weights of ours.

Nothing here is channels last: convolutions over frames are (3,1,1) ones, and every frame has keys
and values of the text of its own. x: (b f) c h w throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from venhancer.model import attention, layers, unet


def plain_conv(ours: nn.Module) -> nn.Conv2d:
    """A convolution with the same weights, laid out as PyTorch does by default."""
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
    """The (3,1) convolution on frames and pixels as a (3,1,1) one."""
    flat = plain_conv(ours)
    channels = flat.in_channels
    made = nn.Conv3d(channels, flat.out_channels, (3, 1, 1), padding=(1, 0, 0), device="meta")
    made.weight = nn.Parameter(flat.weight.unsqueeze(-1), requires_grad=False)
    made.bias = flat.bias
    return made


class TemporalConv(nn.Module):
    """Of `layers.TemporalConv`."""

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
    """Of `layers.ResBlock`; embedding: (b f) e."""

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
    """x: b l c -> b l c; without context the second attention is to x itself."""
    first = block.norm_first(x)
    x = x + attend(block.first, first, first)
    second = block.norm_second(x)
    x = x + attend(block.second, second, second if context is None else context)
    value, gate = block.feed.widen(block.norm_feed(x)).chunk(2, dim=-1)
    return x + block.feed.narrow(value * F.gelu(gate))


class Transformer(nn.Module):
    """What both kinds hold."""

    def __init__(self, ours: attention.SpatialTransformer | attention.TemporalTransformer) -> None:
        super().__init__()
        self.norm, self.block = ours.norm, ours.block
        self.project_in, self.project_out = ours.project_in, ours.project_out


class SpatialTransformer(Transformer):
    """Of `attention.SpatialTransformer`; text: (b f) l d."""

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        tokens = self.project_in(rearrange(self.norm(x), "b c h w -> b (h w) c").contiguous())
        tokens = self.project_out(transform(self.block, tokens, text))
        return x + rearrange(tokens, "b (h w) c -> b c h w", h=h, w=w).contiguous()


class TemporalTransformer(Transformer):
    """Of `attention.TemporalTransformer`."""

    def forward(self, x: Tensor, frames: int) -> Tensor:
        h, w = x.shape[-2:]
        clip = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        tokens = rearrange(self.norm(clip), "b c f h w -> (b h w) f c").contiguous()
        tokens = self.project_out(transform(self.block, self.project_in(tokens), None))
        out = rearrange(tokens, "(b h w) f c -> b c f h w", h=h, w=w).contiguous()
        return rearrange(clip + out, "b c f h w -> (b f) c h w")


class Upsample(nn.Module):
    """Of `layers.Upsample`."""

    def __init__(self, ours: layers.Upsample) -> None:
        super().__init__()
        self.extra_rows, self.conv = ours.extra_rows, plain_conv(ours.conv)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x[:, :, self.extra_rows : x.shape[-2] - self.extra_rows])


class Stage(nn.Module):
    """Of `unet.Stage`; embedding: (b f) e, text: (b f) l d."""

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
    """Of `unet.Encoder`; hint, added after the first convolution: (b f) c h w."""

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
    """Of `unet.Middle`."""

    def __init__(self, ours: unet.Middle) -> None:
        super().__init__()
        self.stage, self.resblock = Stage(ours.stage), ResBlock(ours.resblock)

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None, frames: int) -> Tensor:
        return self.resblock(self.stage(x, embedding, text, frames), embedding, frames)


class UNet(nn.Module):
    """Of `unet.UNet`; control: the controller's residuals, finest first, the middle's last."""

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
