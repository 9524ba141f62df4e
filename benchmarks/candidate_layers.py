"""Candidates among layers without attention, at the finest level and at the coarsest with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import plain_layers
from benchmarks.layer_shapes import Setting
from benchmarks.pairs import Case, Way, Ways
from venhancer.model.layers import GroupNorm, ResBlock, TemporalConv, clip_view

LEVELS = (0, 2)


def cases(setting: Setting) -> Iterator[Case]:
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
    plain = plain_layers.ResBlock(ours)
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
    plain, last = (plain_layers.TemporalConv(ours) for _ in range(2))
    last.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = setting.pixels(level)
    return {
        "Conv3d, NCHW": Way(partial(plain, x.contiguous(), frames)),
        "Conv3d, channels last": Way(partial(last, x, frames)),
        "Conv2d on a view": Way(partial(ours, x, frames)),
    }


def norm_ways(setting: Setting, level: int, is_clip: bool) -> Ways:
    """Over one frame, as before spatial layers, or over all frames of a clip; channels last."""
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
