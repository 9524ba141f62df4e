"""The networks that are exported, as functions with the inputs and outputs of `contract.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from venhancer.config import ModelConfig
from venhancer.contract import NetworkSpec, Precision, networks
from venhancer.diffusion.schedule import noise_schedule
from venhancer.model.denoiser import Denoiser, Prepared, make_denoiser
from venhancer.weights.checkpoint import precision_of
from venhancer_export.onnx_graph.graph import Graph
from venhancer_export.onnx_graph.trace import Function, trace

DENOISER = ("denoiser", "prepare", "text_keys")  # from one module, with one weights file


@dataclass(frozen=True, slots=True)
class Network:
    """One network to export."""

    spec: NetworkSpec
    module: nn.Module  # holds the weights; without data where they are streamed from a file
    function: Function

    def graph(self, sizes: Mapping[str, int]) -> Graph:
        return trace(self.function, self.module, self.spec, sizes)


def denoiser_networks(
    model: ModelConfig, precision: Precision, module: Denoiser | None = None
) -> dict[str, Network]:
    """Make the networks of the denoiser from `module`, or from one without data."""
    module = module or empty_denoiser(model, precision)
    specs = networks(model, precision)
    functions = {"denoiser": _denoiser, "prepare": _prepare, "text_keys": _text_keys}
    return {
        name: Network(specs[name], module, _bound(functions[name], module))
        for name in DENOISER
        if name in specs
    }


def empty_denoiser(model: ModelConfig, precision: Precision) -> Denoiser:
    """Make a denoiser without data, in the precision to export; its noise schedule has data."""
    with torch.device("meta"):
        module = make_denoiser(model).eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(precision_of(name, getattr(torch, precision)))
    module.sigmas = noise_schedule().float()
    return module


def _bound(function: Any, module: nn.Module) -> Function:
    return lambda **inputs: function(module, **inputs)


def _denoiser(
    module: Denoiser, *, latents: Tensor, timestep: Tensor, **once: Tensor
) -> tuple[Tensor]:
    return (module.step(latents, timestep, Prepared(**once)),)


def _prepare(module: Denoiser, **inputs: Tensor) -> tuple[Tensor, ...]:
    made = module.prepare(**inputs)
    outputs = (made.hint_features, made.condition)
    return outputs if made.anchor is None else (*outputs, made.anchor)


def _text_keys(module: Denoiser, *, text: Tensor) -> tuple[Tensor]:
    features = module.prepare_text(text)
    assert features is not None
    return (features,)
