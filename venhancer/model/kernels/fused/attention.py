"""Temporal attention at each pixel: many sequences, each shorter than a matrix-product tile."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from venhancer.model.kernels import plain

ROWS = 64  # per program: as many sequences of one head as fit
LOG2_E = math.log2(math.e)  # the kernel uses exp2 instead of exp


@triton.jit
def _attend(
    query,
    key,
    value,
    out,
    sequences,
    frames,
    stride,
    scale,
    heads: tl.constexpr,
    channels: tl.constexpr,
    padded: tl.constexpr,
    together: tl.constexpr,
):
    """Attend within several sequences of one head at once; scores between them are masked."""
    head = tl.program_id(0) % heads
    row = tl.arange(0, together * padded)
    sequence = tl.program_id(0) // heads * together + row // padded
    frame = row % padded
    is_real = (sequence < sequences) & (frame < frames)
    token = sequence.to(tl.int64) * frames + frame
    channel = head * channels + tl.arange(0, channels)
    at = token[:, None] * stride + channel[None, :]
    q = tl.load(query + at, mask=is_real[:, None], other=0.0)
    k = tl.load(key + at, mask=is_real[:, None], other=0.0)
    v = tl.load(value + at, mask=is_real[:, None], other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    is_own = (row // padded)[:, None] == (row // padded)[None, :]
    scores = tl.where(is_own & (frame < frames)[None, :], scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    attended = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    attended = attended / tl.sum(weights, axis=1)[:, None]
    to = token[:, None] * (heads * channels) + channel[None, :]
    tl.store(out + to, attended.to(out.dtype.element_ty), mask=is_real[:, None])


def attend(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    """Compute attention of every head: by the kernel where it applies, by PyTorch elsewhere.

    b l (n c), twice b m (n c) -> b l (n c)
    """
    if is_short(query, key, head_channels):
        return attend_short(query, key, value, head_channels)
    return plain.attend(query, key, value, head_channels)


def is_short(query: Tensor, key: Tensor, head_channels: int) -> bool:
    """Tell whether the kernel applies: short self-attention, heads of 16, 32, 64 ... channels."""
    is_power = head_channels >= 16 and head_channels & (head_channels - 1) == 0
    return query.shape == key.shape and query.shape[1] <= ROWS and is_power


def attend_short(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    """Compute attention within sequences of at most 64 frames: b l (n c) each -> b l (n c)."""
    sequences, frames, width = query.shape
    padded = max(16, triton.next_power_of_2(frames))
    together = max(1, ROWS // padded)
    heads = width // head_channels
    if not query.stride() == key.stride() == value.stride() or not _is_matrix(query):
        query, key, value = (x.contiguous() for x in (query, key, value))
    out = query.new_empty(query.shape)
    _attend[(triton.cdiv(sequences, together) * heads,)](
        query,
        key,
        value,
        out,
        sequences,
        frames,
        query.stride(1),
        head_channels**-0.5 * LOG2_E,
        heads=heads,
        channels=head_channels,
        padded=padded,
        together=together,
        num_warps=4,
    )
    return out


def _is_matrix(x: Tensor) -> bool:
    """Tell whether all tokens have one stride; true for a third of a joined product."""
    return x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1)
