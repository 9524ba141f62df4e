"""Two layers as Triton kernels, candidates for what PyTorch spends on moving bytes.

Neither is used by the product. Both read each input once or twice and write the output once, in the
layouts that the network has; sums are in float32 and in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, empty, empty_like, float32, nn

ATTENDED_ROWS = 64  # of one program: as many sequences of one head as fit
PIXELS = 128  # of one program, in each channel that it has
CHANNELS = 64  # 128 bytes of a pixel in half precision
CHUNKS = 32  # partial results that are read together


@triton.jit
def _attend(
    query,
    key,
    value,
    out,
    sequences,
    frames,
    scale,
    heads: tl.constexpr,
    channels: tl.constexpr,
    padded: tl.constexpr,
    together: tl.constexpr,
):
    """Several sequences of one head at once: what belongs to two of them does not count."""
    head = tl.program_id(0) % heads
    row = tl.arange(0, together * padded)
    sequence = tl.program_id(0) // heads * together + row // padded
    frame = row % padded
    is_real = (sequence < sequences) & (frame < frames)
    first = (sequence.to(tl.int64) * frames + frame) * (heads * channels) + head * channels
    at = first[:, None] + tl.arange(0, channels)[None, :]
    q = tl.load(query + at, mask=is_real[:, None], other=0.0)
    k = tl.load(key + at, mask=is_real[:, None], other=0.0)
    v = tl.load(value + at, mask=is_real[:, None], other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    is_own = (row // padded)[:, None] == (row // padded)[None, :]
    scores = tl.where(is_own & (frame < frames)[None, :], scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    attended = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    attended = attended / tl.sum(weights, axis=1)[:, None]
    tl.store(out + at, attended.to(out.dtype.element_ty), mask=is_real[:, None])


def attend_short(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    """`attend` for many sequences of at most 64 frames: b l (n c) each -> b l (n c), contiguous.

    c is a power of two, 16 or more.
    """
    sequences, frames, width = query.shape
    padded = max(16, triton.next_power_of_2(frames))
    together = max(1, ATTENDED_ROWS // padded)
    heads = width // head_channels
    out = empty_like(query)
    _attend[(triton.cdiv(sequences, together) * heads,)](
        query,
        key,
        value,
        out,
        sequences,
        frames,
        head_channels**-0.5 * 1.4426950408889634,  # exp2 in place of exp
        heads=heads,
        channels=head_channels,
        padded=padded,
        together=together,
        num_warps=4,
    )
    return out


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
    """Of each channel in some pixels of one image: the mean, and the squared distances from it."""
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
    """Where the partial results of some chunks lie in an image, which are real, of how many."""
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
    """Of one group of one image: what each channel is multiplied by, and what is added."""
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
):
    """SiLU of the normalised values."""
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
    tl.store(out + at, (normal * tl.sigmoid(normal)).to(out.dtype.element_ty), mask=is_real)


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """SiLU of the norm: b c h w -> b c h w, both channels last."""
    images, channels, h, w = x.shape
    pixels, size = h * w, channels // norm.num_groups
    chunks = triton.cdiv(pixels, PIXELS)
    grid = (chunks, images, triton.cdiv(channels, CHANNELS))
    tile = {"rows": PIXELS, "columns": CHANNELS}
    means, spreads = (
        empty(images, chunks, channels, dtype=float32, device=x.device) for _ in range(2)
    )
    gains, offsets = (empty(images, channels, dtype=float32, device=x.device) for _ in range(2))
    out = empty_like(x)
    _moments[grid](x, means, spreads, pixels, channels, **tile, num_warps=4)
    _gains[(norm.num_groups, images)](
        means,
        spreads,
        norm.weight,
        norm.bias,
        gains,
        offsets,
        pixels,
        channels,
        chunks,
        norm.eps,
        size=size,
        columns=triton.next_power_of_2(size),
        rows=PIXELS,
        together=CHUNKS,
    )
    _apply[grid](x, gains, offsets, out, pixels, channels, **tile, num_warps=4)
    return out
