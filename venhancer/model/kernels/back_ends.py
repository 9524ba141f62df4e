"""Choice of PyTorch's attention back end, where one was measured to be faster at a shape."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Literal

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

AttentionKind = Literal["spatial", "text", "temporal"]  # what is attended to
BackEnds = Mapping[AttentionKind, SDPBackend]  # PyTorch chooses where none is named
NONE: BackEnds = MappingProxyType({})
LONGEST_CLIP = 64  # frames; self-attention over more tokens is spatial
ALL = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


def attention_kind(query: Tensor, key: Tensor) -> AttentionKind:
    """Classify an attention by its tokens: query b l c, key b m c."""
    if query.shape[1] != key.shape[1]:
        return "text"
    return "temporal" if query.shape[1] <= LONGEST_CLIP else "spatial"


def prefer(back_ends: BackEnds, query: Tensor, key: Tensor) -> AbstractContextManager[None]:
    """Prefer the back end of this shape; PyTorch takes another one where it cannot run."""
    wanted = back_ends.get(attention_kind(query, key))
    if wanted is None:
        return nullcontext()
    others = [it for it in ALL if it is not wanted]
    return sdpa_kernel([wanted, *others], set_priority=True)
