"""GroupNorm, and the SiLU that mostly follows it, for tensors that are channels last in memory.

PyTorch's own CUDA kernel computes in NCHW: it copies its input, and the convolution that follows
copies its output. These kernels copy nothing. Sums are in float32, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, empty, empty_like, float32, nn

PIXELS = 128  # per program, in each of its channels
CHANNELS = 64  # per program: 128 bytes of a pixel in half precision
CHUNKS = 32  # partial results that are read together


@triton.jit
def _moments(
    x,
    means,
    spreads,
    pixels,
    channels,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    """Take each channel's mean in some pixels of an image, and the squared distances from it."""
    chunk, image = tl.program_id(0), tl.program_id(1)
    pixel = chunk * rows + tl.arange(0, rows)
    channel = tl.program_id(2) * columns + tl.arange(0, columns)
    is_real = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = (image.to(tl.int64) * pixels + pixel)[:, None] * channels + channel[None, :]
    values = tl.load(x + at, mask=is_real, other=0.0).to(tl.float32)
    count = tl.minimum(pixels - chunk * rows, rows)
    mean = tl.sum(values, axis=0) / count
    away = tl.where(is_real, values - mean[None, :], 0.0)
    to = (image * tl.num_programs(0) + chunk) * channels + channel
    tl.store(means + to, mean, mask=channel < channels)
    tl.store(spreads + to, tl.sum(away * away, axis=0), mask=channel < channels)


@triton.jit
def _partials(
    start, chunks, pixels, channels, channel, is_own, rows: tl.constexpr, together: tl.constexpr
):
    """Compute offsets, mask and pixel counts of the partial results of some chunks."""
    chunk = start + tl.arange(0, together)
    at = chunk[:, None] * channels + channel[None, :]
    is_real = (chunk < chunks)[:, None] & is_own[None, :]
    return at, is_real, tl.minimum(pixels - chunk * rows, rows)[:, None]


@triton.jit
def _gains(
    means,
    spreads,
    weight,
    bias,
    gains,
    offsets,
    pixels,
    channels,
    chunks,
    eps,
    size: tl.constexpr,
    columns: tl.constexpr,
    rows: tl.constexpr,
    together: tl.constexpr,
):
    """Compute the factor and the offset of each channel of one group."""
    group, image = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, columns)
    is_own = channel < size
    channel = group * size + channel
    means += image * chunks * channels
    spreads += image * chunks * channels
    total = tl.zeros((together, columns), tl.float32)
    for start in range(0, chunks, together):
        at, is_real, count = _partials(
            start, chunks, pixels, channels, channel, is_own, rows, together
        )
        total += count * tl.load(means + at, mask=is_real, other=0.0)
    mean = tl.sum(total) / pixels / size
    total = tl.zeros((together, columns), tl.float32)
    for start in range(0, chunks, together):
        at, is_real, count = _partials(
            start, chunks, pixels, channels, channel, is_own, rows, together
        )
        away = tl.load(means + at, mask=is_real, other=mean) - mean
        total += tl.load(spreads + at, mask=is_real, other=0.0) + count * away * away
    gain = tl.rsqrt(tl.sum(total) / pixels / size + eps)
    gain = gain * tl.load(weight + channel, mask=is_own, other=0.0).to(tl.float32)
    offset = tl.load(bias + channel, mask=is_own, other=0.0).to(tl.float32) - mean * gain
    tl.store(gains + image * channels + channel, gain, mask=is_own)
    tl.store(offsets + image * channels + channel, offset, mask=is_own)


@triton.jit
def _apply(
    x,
    gains,
    offsets,
    out,
    pixels,
    channels,
    rows: tl.constexpr,
    columns: tl.constexpr,
    has_silu: tl.constexpr,
):
    """Normalise a tile, and apply SiLU if asked to."""
    image = tl.program_id(1)
    pixel = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.program_id(2) * columns + tl.arange(0, columns)
    is_real = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = (image.to(tl.int64) * pixels + pixel)[:, None] * channels + channel[None, :]
    values = tl.load(x + at, mask=is_real, other=0.0).to(tl.float32)
    own = image * channels + channel
    gain = tl.load(gains + own, mask=channel < channels, other=0.0)
    offset = tl.load(offsets + own, mask=channel < channels, other=0.0)
    normal = values * gain[None, :] + offset[None, :]
    if has_silu:
        normal = normal * tl.sigmoid(normal)
    tl.store(out + at, normal.to(out.dtype.element_ty), mask=is_real)


def norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    return _normalise(layer, x, has_silu=False)


def norm_silu(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    return _normalise(layer, x, has_silu=True)


def _normalise(layer: nn.GroupNorm, x: Tensor, has_silu: bool) -> Tensor:
    """Normalise b c h w -> b c h w, channels last."""
    x = x.contiguous(memory_format=torch.channels_last)
    images, channels, h, w = x.shape
    pixels = h * w
    grid = (triton.cdiv(pixels, PIXELS), images, triton.cdiv(channels, CHANNELS))
    tile = {"rows": PIXELS, "columns": CHANNELS}
    means, spreads = (
        empty(images, grid[0], channels, dtype=float32, device=x.device) for _ in range(2)
    )
    _moments[grid](x, means, spreads, pixels, channels, **tile, num_warps=4)
    gains, offsets = _join(layer, means, spreads, pixels)
    out = empty_like(x)
    _apply[grid](x, gains, offsets, out, pixels, channels, **tile, has_silu=has_silu, num_warps=4)
    return out


def _join(
    layer: nn.GroupNorm, means: Tensor, spreads: Tensor, pixels: int
) -> tuple[Tensor, Tensor]:
    """Compute each channel's factor and offset from the programs' partial moments: b c each."""
    images, chunks, channels = means.shape
    size = channels // layer.num_groups
    gains, offsets = (empty(images, channels, dtype=float32, device=means.device) for _ in range(2))
    _gains[(layer.num_groups, images)](
        means,
        spreads,
        layer.weight,
        layer.bias,
        gains,
        offsets,
        pixels,
        channels,
        chunks,
        layer.eps,
        size=size,
        columns=triton.next_power_of_2(size),
        rows=PIXELS,
        together=CHUNKS,
    )
    return gains, offsets
