"""A residual and the LayerNorm that follows it, in one pass."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, nn

ELEMENTS = 4096  # per program, at most, unless a single row is longer


@triton.jit
def _add_norm(
    x,
    y,
    weight,
    bias,
    total,
    normal,
    rows,
    width,
    eps,
    tile: tl.constexpr,
    columns: tl.constexpr,
):
    """Add whole rows, round the sum as it is stored, and normalise what was stored."""
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    column = tl.arange(0, columns)
    is_own = column < width
    is_real = (row < rows)[:, None] & is_own[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    added = tl.load(x + at, mask=is_real, other=0.0).to(tl.float32)
    added += tl.load(y + at, mask=is_real, other=0.0).to(tl.float32)
    rounded = added.to(total.dtype.element_ty)
    tl.store(total + at, rounded, mask=is_real)
    rounded = rounded.to(tl.float32)
    away = rounded - (tl.sum(rounded, axis=1) / width)[:, None]
    away = tl.where(is_real, away, 0.0)
    away *= tl.rsqrt(tl.sum(away * away, axis=1) / width + eps)[:, None]
    gain = tl.load(weight + column, mask=is_own, other=0.0).to(tl.float32)
    offset = tl.load(bias + column, mask=is_own, other=0.0).to(tl.float32)
    made = away * gain[None, :] + offset[None, :]
    tl.store(normal + at, made.to(normal.dtype.element_ty), mask=is_real)


def add_norm(x: Tensor, y: Tensor, layer: nn.LayerNorm, frames: int = 1) -> tuple[Tensor, Tensor]:
    """Compute the sum and its norm: twice (b f) l c -> twice b (f l) c."""
    images, tokens, width = x.shape
    x, y = x.contiguous(), y.contiguous()
    total, normal = (x.new_empty(images // frames, frames * tokens, width) for _ in range(2))
    columns = triton.next_power_of_2(width)
    tile = max(1, ELEMENTS // columns)
    rows = images * tokens
    _add_norm[(triton.cdiv(rows, tile),)](
        x,
        y,
        layer.weight,
        layer.bias,
        total,
        normal,
        rows,
        width,
        layer.eps,
        tile=tile,
        columns=columns,
        num_warps=4,
    )
    return total, normal
