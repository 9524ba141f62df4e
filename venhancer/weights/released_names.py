"""Table between the released checkpoint's names and ours, applied both ways.

The released names number the stages of a flat list (`input_blocks.4.1`); ours say what they are
(`unet.encoder.stages.3.spatial`). Two kinds of weight differ in shape: the release has (c, c, 3, 1,
1) for convolutions over frames and (c, c, 1) for pointwise Conv1d; ours have no trailing axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from venhancer.config import ModelConfig, UNetConfig
from venhancer.errors import WeightsError
from venhancer.model.attention import SpatialTransformer, TemporalTransformer
from venhancer.model.controller import Controller
from venhancer.model.denoiser import UNetDenoiser
from venhancer.model.layers import Downsample, Embedding, ResBlock, Upsample
from venhancer.model.unet import Encoder, Middle, UNet

CONTROLLER = "VideoControlNet."
Names = Iterator[tuple[str, str]]

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
_LAYERS: Mapping[type[nn.Module], Mapping[str, str]] = {
    ResBlock: _RESBLOCK,
    SpatialTransformer: _TRANSFORMER,
    TemporalTransformer: _TRANSFORMER,
    Upsample: {"conv": "conv"},
    Embedding: {"0": "0", "2": "2"},
}


@dataclass(frozen=True, slots=True)
class NamePair:
    """One tensor under both names; `shape` is ours."""

    ours: str
    released: str
    shape: tuple[int, ...]
    has_trailing_axis: bool  # the released shape is ours with a trailing 1

    @property
    def released_shape(self) -> tuple[int, ...]:
        return (*self.shape, 1) if self.has_trailing_axis else self.shape


@cache
def name_table(config: UNetConfig) -> tuple[NamePair, ...]:
    """List every tensor of the released layout, in our order of modules, UNet first.

    WeightsError for a flat body, which that layout has no names for.
    """
    if config.body == "flat":
        raise WeightsError(
            "these are weights in the released layout, which holds UNets, and this model is flat: "
            "take the --preset that they belong to"
        )
    with torch.device("meta"):
        model = UNetDenoiser(ModelConfig(unet=config))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return tuple(
        NamePair(name, f"{theirs}.{kind}", shapes[name], _has_trailing_axis(ours, kind))
        for ours, theirs in _module_names(model)
        for kind in ("weight", "bias")
        if (name := f"{ours}.{kind}") in shapes
    )


def from_released(tensors: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Rename and reshape released tensors to ours, as views; WeightsError names the misfits."""
    table = name_table(config)
    check_shapes(tensors, {entry.released: entry.released_shape for entry in table})
    return {entry.ours: _ours(tensors[entry.released], entry) for entry in table}


def to_released(tensors: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Rename and reshape our tensors to the released ones, as views; errors as `from_released`."""
    table = name_table(config)
    check_shapes(tensors, {entry.ours: entry.shape for entry in table})
    return {entry.released: _released(tensors[entry.ours], entry) for entry in table}


def from_prior(tensors: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Make all our tensors from the UNet alone (MS-Vid2Vid-XL's names), ready for training.

    The controller's encoder, middle and time embedding are copies of the UNet's. Its other layers
    start as in the paper: at zero, except the first layer of the scale embedding.
    """
    table = name_table(config)
    prior = [entry for entry in table if not entry.released.startswith(CONTROLLER)]
    check_shapes(tensors, {entry.released: entry.released_shape for entry in prior})
    state = {entry.ours: _ours(tensors[entry.released], entry) for entry in prior}
    like = next(iter(state.values()))
    for entry in table[len(prior) :]:
        source = entry.released.removeprefix(CONTROLLER)
        is_copy = source in tensors
        state[entry.ours] = (
            _ours(tensors[source], entry).clone() if is_copy else like.new_zeros(entry.shape)
        )
    scale = Embedding(config, zero=True).state_dict()
    state |= {f"controller.scale_embedding.{k}": v.to(like.dtype) for k, v in scale.items()}
    return state


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare shapes; WeightsError names the first missing, unexpected and mis-shaped tensors."""
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    complaints = [
        _first("missing", (name for name in expected if name not in tensors)),
        _first("unexpected", (name for name in tensors if name not in expected)),
        _first("of another shape", wrong),
    ]
    if any(complaints):
        raise WeightsError("not this model's weights: " + "; ".join(filter(None, complaints)))


def _first(what: str, names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{len(found)} {what} ({', '.join(found[:3])}{more})" if found else ""


def _ours(tensor: Tensor, entry: NamePair) -> Tensor:
    return tensor.squeeze(-1) if entry.has_trailing_axis else tensor


def _released(tensor: Tensor, entry: NamePair) -> Tensor:
    return tensor.unsqueeze(-1) if entry.has_trailing_axis else tensor


def _has_trailing_axis(module: str, kind: str) -> bool:
    is_temporal_conv = ".temporal.convs." in module
    is_pointwise = module.endswith((".temporal.project_in", ".temporal.project_out"))
    return kind == "weight" and (is_temporal_conv or is_pointwise)


def _module_names(model: UNetDenoiser) -> Names:
    """Pair each of our modules that has weights with its released name, UNet first."""
    yield from _layer("time_embedding", "time_embed", model.time_embedding)
    yield from _unet("unet", model.unet)
    yield from _controller("controller", model.controller)


def _unet(ours: str, unet: UNet) -> Names:
    yield from _encoder(f"{ours}.encoder", "input_blocks", unet.encoder)
    yield from _middle(f"{ours}.middle", "middle_block", unet.middle)
    for i, stage in enumerate(unet.decoder.stages):
        yield from _numbered(f"{ours}.decoder.stages.{i}", f"output_blocks.{i}", stage)
    yield from ((f"{ours}.norm", "out.0"), (f"{ours}.head", "out.2"))


def _controller(ours: str, controller: Controller) -> Names:
    theirs = CONTROLLER.rstrip(".")
    yield from _layer(f"{ours}.time_embedding", f"{theirs}.time_embed", controller.time_embedding)
    yield f"{ours}.noise_level_embedding", f"{theirs}.hint_time_zero_linear"
    yield from _layer(f"{ours}.scale_embedding", f"{theirs}.scale_cond", controller.scale_embedding)
    yield f"{ours}.hint_conv", f"{theirs}.input_hint_block"
    yield from _encoder(f"{ours}.encoder", f"{theirs}.input_blocks", controller.encoder)
    yield from _middle(f"{ours}.middle", f"{theirs}.middle_block", controller.middle)
    for i in range(len(controller.zero_convs)):
        yield f"{ours}.zero_convs.{i}", f"{theirs}.zero_convs.{i}.0"
    yield f"{ours}.zero_conv_middle", f"{theirs}.middle_block_out.0"


def _encoder(ours: str, theirs: str, encoder: Encoder) -> Names:
    yield f"{ours}.input.conv", f"{theirs}.0.0"
    if encoder.input.temporal is not None:
        yield from _layer(f"{ours}.input.temporal", f"{theirs}.0.1", encoder.input.temporal)
    for i, stage in enumerate(encoder.stages):
        if isinstance(stage, Downsample):
            yield f"{ours}.stages.{i}", f"{theirs}.{i + 1}.op"
        else:
            yield from _numbered(f"{ours}.stages.{i}", f"{theirs}.{i + 1}", stage)


def _middle(ours: str, theirs: str, middle: Middle) -> Names:
    yield from _numbered(f"{ours}.stage", theirs, middle.stage)
    last = len(list(middle.stage.children()))
    yield from _layer(f"{ours}.resblock", f"{theirs}.{last}", middle.resblock)


def _numbered(ours: str, theirs: str, stage: nn.Module) -> Names:
    """Pair the parts of a stage: ours go by name, the released ones by number."""
    for i, (name, part) in enumerate(stage.named_children()):
        yield from _layer(f"{ours}.{name}", f"{theirs}.{i}", part)


def _layer(ours: str, theirs: str, layer: nn.Module) -> Names:
    for name, their_name in _LAYERS[type(layer)].items():
        yield f"{ours}.{name}", f"{theirs}.{their_name}"
