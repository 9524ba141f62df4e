"""Inputs of a model's layers at every level, and candidates among the layers.

Layers without attention are measured at the finest level and at the coarsest with attention. There
are three kinds of attention: spatial, over the tokens of a frame; cross, from the tokens of all
frames to 77 of text; temporal, over the frames of a pixel, which gives many short sequences.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.questions.pairs import Case, Way, Ways
from benchmarks.random_models import random_state
from benchmarks.speed import plain_network
from benchmarks.speed.ceiling import branches
from venhancer.config import Preset, UNetConfig
from venhancer.contract import TEXT_LENGTH
from venhancer.model.denoiser import UNetDenoiser, make_denoiser
from venhancer.model.kernels.plain import attend
from venhancer.model.layers import GroupNorm, ResBlock, TemporalConv, clip_view
from venhancer.weights.checkpoint import assign

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model, the size of its window, and the device."""

    preset: Preset
    latent: tuple[int, int]  # rows and columns
    frames: int
    codec: tuple[int, int]  # rows and columns of pixels that the autoencoder is given
    device: str
    dtype: torch.dtype

    @property
    def unet(self) -> UNetConfig:
        return self.preset.model.unet

    @property
    def branches(self) -> int:
        return branches(self.preset.model)

    @property
    def images(self) -> int:
        """The number of frames of all branches."""
        return self.branches * self.frames

    def size(self, level: int) -> tuple[int, int]:
        """Return rows and columns after `level` downsamplings."""
        rows, columns = self.latent
        for _ in range(level):
            rows = (rows - 1) // 2 + 1 + self.unet.extra_rows
            columns = (columns - 1) // 2 + 1
        return rows, columns

    def tokens(self, level: int) -> int:
        """Return the number of tokens of one frame."""
        rows, columns = self.size(level)
        return rows * columns

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)

    def pixels(self, level: int) -> Tensor:
        """Make a random input, (b f) c h w, channels last."""
        x = self.random(self.images, self.unet.widths[level], *self.size(level))
        return x.contiguous(memory_format=torch.channels_last)

    def build(self, make: Callable[[], Module]) -> Module:
        """Build a layer; no weight is zero, and filters are channels last."""
        with torch.device(self.device):
            state = random_state(make, self.dtype)
        with torch.device("meta"):
            made = make()
        made.load_state_dict(state, assign=True)
        made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return made.eval().requires_grad_(False)

    def denoiser(self) -> UNetDenoiser:
        """Build the whole network, as the product loads it; candidates are parts of a UNet."""
        model = self.preset.model
        with torch.device(self.device):
            state = random_state(lambda: make_denoiser(model), self.dtype)
        made = assign(model, state, dtype=self.dtype, device=self.device)
        assert isinstance(made, UNetDenoiser)
        return made.eval().requires_grad_(False)


# --- layers without attention ---------------------------------------------------------------------


LEVELS = (0, 2)


def layer_cases(setting: Setting) -> Iterator[Case]:
    for level in LEVELS:
        rows, columns = setting.size(level)
        width, frames = setting.unet.widths[level], setting.frames
        images = f"{setting.images} x {width} x {rows} x {columns}"
        clips = f"{setting.images // frames} x {width} x {frames} x {rows * columns}"
        for candidate, layer, make in (
            ("channels last", f"ResBlock, {images}", resblock_ways),
            ("convolution over frames", f"TemporalConv, {images}", temporal_ways),
            ("GroupNorm and SiLU", images, partial(norm_ways, is_clip=False)),
            ("GroupNorm and SiLU", clips, partial(norm_ways, is_clip=True)),
        ):
            yield Case(candidate, layer, partial(make, setting, level))


def resblock_ways(setting: Setting, level: int) -> Ways:
    config, frames = setting.unet, setting.frames
    width = config.widths[level]
    ours = setting.build(lambda: ResBlock(width, width, config))
    rows = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    plain = plain_network.ResBlock(ours)
    x = setting.pixels(level)
    embedding = setting.random(setting.images, config.embedding_width)
    return {
        "NCHW, as released": Way(partial(plain, x.contiguous(), embedding, frames)),
        "NCHW": Way(partial(rows, x.contiguous(), embedding, frames)),
        "channels last": Way(partial(ours, x, embedding, frames)),
    }


def temporal_ways(setting: Setting, level: int) -> Ways:
    config, frames = setting.unet, setting.frames
    ours = setting.build(lambda: TemporalConv(config.widths[level], config))
    plain, last = (plain_network.TemporalConv(ours) for _ in range(2))
    last.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = setting.pixels(level)
    return {
        "Conv3d, NCHW": Way(partial(plain, x.contiguous(), frames)),
        "Conv3d, channels last": Way(partial(last, x, frames)),
        "Conv2d on a view": Way(partial(ours, x, frames)),
    }


def norm_ways(setting: Setting, level: int, is_clip: bool) -> Ways:
    """Normalise one frame, as before spatial layers, or all frames of a clip; channels last."""
    groups, width = setting.unet.norm_groups, setting.unet.widths[level]
    norm = setting.build(lambda: nn.GroupNorm(groups, width))
    ours = setting.build(lambda: GroupNorm(groups, width))
    x = setting.pixels(level)
    if is_clip:
        x = clip_view(x, setting.frames)
    torch.compiler.reset()  # else it gives up after eight shapes
    compiled = torch.compile(norm_silu, dynamic=False, fullgraph=True)
    return {
        "two operators": Way(partial(norm_silu, norm, x)),
        "small frames by way of NCHW": Way(partial(norm_silu, ours, x)),
        "SiLU in place": Way(partial(norm_silu, norm, x, is_in_place=True)),
        "torch.compile": Way(partial(compiled, norm, x)),
        "Triton": Way(partial(norm_silu_triton, norm, x)),
    }


def norm_silu(norm: nn.Module, x: Tensor, is_in_place: bool = False) -> Tensor:
    return F.silu(norm(x), inplace=is_in_place)


def norm_silu_triton(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    from venhancer.model.kernels.fused import group_norm

    return group_norm.norm_silu(norm, x)


# --- attention ------------------------------------------------------------------------------------


Shape = tuple[int, int, int]  # b l (n c)
BACK_ENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def attention_cases(setting: Setting, lengths: Sequence[int]) -> Iterator[Case]:
    """lengths: window lengths in frames at which temporal attention is measured"""
    config = setting.unet
    for level in config.spatial_levels:
        width, tokens = config.widths[level], setting.tokens(level)
        yield attention_case(setting, "spatial attention", (setting.images, tokens, width))
        long = (setting.branches, setting.frames * tokens, width)
        yield attention_case(setting, "cross-attention", long, TEXT_LENGTH)
    for frames in lengths:
        for level, width in dict.fromkeys(temporal_widths(setting)):
            sequences = setting.branches * setting.tokens(level)
            yield attention_case(setting, "temporal attention", (sequences, frames, width))


def temporal_widths(setting: Setting) -> Iterator[tuple[int, int]]:
    """Yield the levels and channels of the temporal transformers."""
    config = setting.unet
    if config.first_temporal_heads:
        yield 0, config.first_temporal_heads * config.head_channels
    for level in config.temporal_levels:
        yield level, config.widths[level]


def attention_case(setting: Setting, kind: str, queries: Shape, keys: int | None = None) -> Case:
    """keys: number of tokens that are attended to, if it is not that of the queries"""
    heads = queries[-1] // setting.unet.head_channels
    size = f"{queries[0]} x {heads} heads x {queries[1]}"
    layer = size if keys is None else f"{size} to {keys}"
    is_short = kind == "temporal attention"
    return Case(
        kind, layer, partial(attention_ways, setting, queries, keys or queries[1], is_short)
    )


def attention_ways(setting: Setting, queries: Shape, keys: int, is_short: bool) -> Ways:
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
    """Use FlashAttention-3 within the block; PyTorch takes it from a separate package."""
    attention.activate_flash_attention_impl("FA3")
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            yield
    finally:
        attention.restore_flash_attention_impl()


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    """Compute `attend` with the scores written to memory."""
    q, k, v = (rearrange(x, "b l (n c) -> b n l c", c=head_channels) for x in (query, key, value))
    weights = torch.softmax(q * head_channels**-0.5 @ k.mT, dim=-1)
    return rearrange(weights @ v, "b n l c -> b l (n c)")


def attend_triton(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    from venhancer.model.kernels.fused.attention import attend_short

    return attend_short(query, key, value, head_channels)
