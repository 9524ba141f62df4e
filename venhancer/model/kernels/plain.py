"""PyTorch's form of every layer: used for export, training, and where no kernel is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

MOST_SEQUENCES = 65_535  # limit of the CUDA grid axis that attention kernels use for the batch


def norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    return layer(x)


def norm_silu(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.silu(layer(x))


def attend(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    """Compute scaled dot-product attention per head: b l (n c), twice b m (n c) -> b l (n c)."""
    if len(query) > MOST_SEQUENCES:
        parts = (x.split(MOST_SEQUENCES) for x in (query, key, value))
        attended = [attend(q, k, v, head_channels) for q, k, v in zip(*parts, strict=True)]
        return torch.cat(attended)
    q, k, v = (rearrange(x, "b l (n c) -> b n l c", c=head_channels) for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b n l c -> b l (n c)")


def geglu(x: Tensor) -> Tensor:
    """Gate the first half of the channels by the second: ... 2c -> ... c."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def add_norm(x: Tensor, y: Tensor, layer: nn.LayerNorm, frames: int = 1) -> tuple[Tensor, Tensor]:
    """Compute the sum and its norm: twice (b f) l c -> twice b (f l) c."""
    total = x + y
    if frames > 1:
        total = rearrange(total, "(b f) l c -> b (f l) c", f=frames)
    return total, layer(total)
