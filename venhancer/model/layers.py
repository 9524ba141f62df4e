"""Building blocks without attention. Everything is `(b f) c h w`, channels last in memory."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from venhancer.config import UNetConfig
from venhancer.model.kernels.forms import Fusable


def sinusoid(position: Tensor, width: int) -> Tensor:
    """Compute float32 cosines, then sines, at geometric frequencies: position (b) -> (b, width)."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=position.device)
    angles = position.float()[:, None] * torch.exp(-math.log(10000.0) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def per_frame(x: Tensor, frames: int) -> Tensor:
    """Repeat each row for all frames of its clip: b c -> (b f) c."""
    b, c = x.shape
    return x[:, None].expand(b, frames, c).reshape(b * frames, c)


def clip_view(x: Tensor, frames: int) -> Tensor:
    """View frames as clips: (b f) c h w -> b c f (h w).

    Rows and columns are joined first. Otherwise PyTorch does not recognise the strides of a batch
    of one as channels last, and copies the tensor to normalise it, which is many times slower.
    """
    return rearrange(x, "(b f) c h w -> b f c (h w)", f=frames).transpose(1, 2)


def repeat_branches(x: Tensor, count: int) -> Tensor:
    """Repeat a tensor that the guidance branches share: n ... -> count ..., branch by branch.

    Up to the first layer that reads text, an evaluation computes one clip for both branches.
    Returns `x` itself where nothing is to be repeated.
    """
    return x if len(x) == count else torch.cat([x] * (count // len(x)))


def zero_init(layer: nn.Module) -> nn.Module:
    """Set the weights to zero, so that training starts from the network without `layer`."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Embedding(nn.Sequential):
    """Embedding of a number: sinusoid, Linear, SiLU, Linear. Position (b) -> (b, 4 c)."""

    def __init__(self, config: UNetConfig, zero: bool = False) -> None:
        last = nn.Linear(config.embedding_width, config.embedding_width)
        super().__init__(
            nn.Linear(config.base_channels, config.embedding_width),
            nn.SiLU(),
            zero_init(last) if zero else last,
        )
        self.width = config.base_channels

    def forward(self, position: Tensor) -> Tensor:
        embedded = sinusoid(position, self.width).to(self[0].get_parameter("weight").dtype)
        for layer in self:
            embedded = layer(embedded)
        return embedded


class GroupNorm(nn.GroupNorm):
    """GroupNorm that uses NCHW where PyTorch's channels last is slow: small frames on a CPU."""

    small = 1024  # pixels; from this size on, PyTorch uses another kernel

    def forward(self, x: Tensor) -> Tensor:
        is_small = x.ndim == 4 and x.shape[-2] * x.shape[-1] < self.small
        if x.device.type != "cpu" or not is_small or x.is_contiguous():
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class TemporalConv(Fusable):
    """Residual block of convolutions over three frames; the last one is initialised to zero.

    A (3,1,1) convolution is computed as a (3,1) one on the view `b c f (h w)`.
    x: (b f) c h w -> (b f) c h w
    """

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        norms = [GroupNorm(config.norm_groups, channels) for _ in range(config.temporal_convs)]
        convs: list[nn.Module] = [
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
            for _ in range(config.temporal_convs)
        ]
        zero_init(convs[-1])
        self.norms = nn.ModuleList(norms)
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        h, w = x.shape[-2:]
        out = clip = clip_view(x, frames)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            assert isinstance(norm, GroupNorm)
            out = conv(self.forms.norm_silu(norm, out))
        return rearrange(clip + out, "b c f (h w) -> (b f) c h w", h=h, w=w)


class ResBlock(Fusable):
    """Two convolutions with the embedding as a bias between, a skip, then a `TemporalConv`.

    x: (b f) c h w, embedding: (b f) e, or f e if all b share it -> (b f) out h w
    """

    def __init__(self, channels: int, out_channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm_in = GroupNorm(config.norm_groups, channels)
        self.conv_in = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(config.embedding_width, out_channels)
        self.norm_out = GroupNorm(config.norm_groups, out_channels)
        self.conv_out = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )
        self.temporal = TemporalConv(out_channels, config)

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        out = self.conv_in(self.forms.norm_silu(self.norm_in, x))
        bias = repeat_branches(self.embed(F.silu(embedding)), len(x))
        out = out + bias[:, :, None, None]
        out = self.conv_out(self.forms.norm_silu(self.norm_out, out))
        return self.temporal(self.skip(x) + out, frames)


class Downsample(nn.Conv2d):
    """Convolution that halves the size; the release pads rows by two: 90 -> 46 -> 24 -> 13."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=(1 + config.extra_rows, 1))


class Upsample(nn.Module):
    """Upsampling to twice the size, minus the rows that `Downsample` added; then a convolution."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.extra_rows = config.extra_rows
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        rows = x.shape[-2]
        return self.conv(x[:, :, self.extra_rows : rows - self.extra_rows])
