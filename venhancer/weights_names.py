"""The released checkpoint's names <-> ours: one table, applied both ways.

The released names number the stages of a flat list (`input_blocks.4.1`); ours say what they are
(`unet.encoder.stages.3.spatial`). Two kinds of weight differ in shape: convolutions over frames
(c, c, 3, 1, 1) and pointwise Conv1d (c, c, 1); ours have no trailing axis there.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from venhancer.config import UNetConfig
from venhancer.model.attention import SpatialTransformer, TemporalTransformer
from venhancer.model.denoiser import Denoiser
from venhancer.model.layers import Downsample, Embedding, ResBlock, Upsample
from venhancer.model.unet import Middle, Stage

CONTROLLER = "VideoControlNet."

_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
_TRANSFORMER = {
    "norm": "norm",
    "project_in": "proj_in",
    "project_out": "proj_out",
    "block.norm_first": "transformer_blocks.0.norm1",
    "block.norm_second": "transformer_blocks.0.norm2",
    "block.norm_feed": "transformer_blocks.0.norm3",
    "block.feed.widen": "transformer_blocks.0.ff.net.0.proj",
    "block.feed.narrow": "transformer_blocks.0.ff.net.2",
    **{f"block.first.{ours}": f"transformer_blocks.0.attn1.{n}" for ours, n in _ATTENTION.items()},
    **{f"block.second.{ours}": f"transformer_blocks.0.attn2.{n}" for ours, n in _ATTENTION.items()},
}
_RESBLOCK = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "embed": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
    **{f"temporal.norms.{i}": f"temopral_conv.conv{i + 1}.0" for i in range(4)},
    # the first has no dropout before its convolution, hence the lower number
    **{f"temporal.convs.{i}": f"temopral_conv.conv{i + 1}.{3 if i else 2}" for i in range(4)},
}
_LAYERS = {
    ResBlock: _RESBLOCK,
    SpatialTransformer: _TRANSFORMER,
    TemporalTransformer: _TRANSFORMER,
    Downsample: {"": "op"},
    Upsample: {"conv": "conv"},
    Embedding: {"0": "0", "2": "2"},
}


def module_names(config: UNetConfig) -> Iterator[tuple[str, str]]:
    """(our module, its released module) for all that carry weights, UNet first."""
    yield from _embedding("time_embedding", "time_embed")
    yield from _trunk("unet.", "", config)
    yield from _decoder(config)
    yield from (("unet.norm", "out.0"), ("unet.head", "out.2"))
    yield from _embedding("controller.time_embedding", f"{CONTROLLER}time_embed")
    yield from _trunk("controller.", CONTROLLER, config)
    yield from _controller_extras(config)
