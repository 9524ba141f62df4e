"""Candidates for attention, at the shapes of every level that has it.

Spatial: the tokens of a frame; cross: those of all frames with 77 of text; temporal: the frames of
a pixel, which are many short sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.layer_shapes import Setting
from benchmarks.pairs import Case, Way, Ways
from venhancer.contract import TEXT_LENGTH
from venhancer.model.kernels.plain import attend

Shape = tuple[int, int, int]  # b l (n c)
BACK_ENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def cases(setting: Setting, lengths: Sequence[int]) -> Iterator[Case]:
    """lengths: frames of the windows that temporal attention is measured at."""
    config = setting.unet
    for level in config.spatial_levels:
        width, tokens = config.widths[level], setting.tokens(level)
        yield case(setting, "spatial attention", (setting.images, tokens, width))
        long = (setting.branches, setting.frames * tokens, width)
        yield case(setting, "cross-attention", long, TEXT_LENGTH)
    for frames in lengths:
        for level, width in dict.fromkeys(temporal_widths(setting)):
            sequences = setting.branches * setting.tokens(level)
            yield case(setting, "temporal attention", (sequences, frames, width))


def temporal_widths(setting: Setting) -> Iterator[tuple[int, int]]:
    """Levels and channels of the temporal transformers."""
    config = setting.unet
    if config.first_temporal_heads:
        yield 0, config.first_temporal_heads * config.head_channels
    for level in config.temporal_levels:
        yield level, config.widths[level]


def case(setting: Setting, kind: str, queries: Shape, keys: int | None = None) -> Case:
    """keys: tokens that are attended to, if they are others."""
    heads = queries[-1] // setting.unet.head_channels
    size = f"{queries[0]} x {heads} heads x {queries[1]}"
    layer = size if keys is None else f"{size} to {keys}"
    is_short = kind == "temporal attention"
    return Case(kind, layer, partial(ways, setting, queries, keys or queries[1], is_short))


def ways(setting: Setting, queries: Shape, keys: int, is_short: bool) -> Ways:
    b, _, width = queries
    given = setting.random(*queries), setting.random(b, keys, width), setting.random(b, keys, width)
    call = partial(attend, *given, setting.unet.head_channels)
    found = {"as PyTorch chooses": Way(call)}
    found |= {name: Way(call, partial(sdpa_kernel, it)) for name, it in BACK_ENDS.items()}
    found["flash 3"] = Way(call, flash_3)
    found["softmax of a product"] = Way(partial(attend_plainly, *given, setting.unet.head_channels))
    if is_short:
        found["Triton"] = Way(partial(attend_triton, *given, setting.unet.head_channels))
    return found


@contextmanager
def flash_3() -> Iterator[None]:
    """FlashAttention-3, which PyTorch takes from a package of its own."""
    attention.activate_flash_attention_impl("FA3")
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            yield
    finally:
        attention.restore_flash_attention_impl()


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    """As `attend`, with scores that lie in memory."""
    q, k, v = (rearrange(x, "b l (n c) -> b n l c", c=head_channels) for x in (query, key, value))
    weights = torch.softmax(q * head_channels**-0.5 @ k.mT, dim=-1)
    return rearrange(weights @ v, "b n l c -> b l (n c)")


def attend_triton(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    from venhancer.model.kernels.fused.attention import attend_short

    return attend_short(query, key, value, head_channels)
