"""Modules with their weights, and the networks that are exported from each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from venhancer.config import TINY, Preset
from venhancer.contract import Precision, networks
from venhancer.weights.checkpoint import load_state
from venhancer_export.onnx_graph.networks import Network, denoiser_networks
from venhancer_export.onnx_graph.weights_file import Read


@dataclass(frozen=True, slots=True)
class Source:
    """A module, its networks, its weights by name, and files to export with it."""

    name: str  # of its weights file
    module: nn.Module
    networks: Mapping[str, Network]
    read: Read
    save_files: Callable[[Path], None] | None = None  # the text encoder's tokenizer


def denoiser_source(preset: Preset, weights: Path, precision: Precision) -> Source:
    """Make the denoiser's source; its weights stay in the checkpoint until they are written."""
    made = denoiser_networks(preset.model, precision)
    module = made["denoiser"].module
    state, _ = load_state(weights, preset)
    buffers = dict(module.named_buffers())

    def read(name: str) -> Tensor:
        return buffers[name] if name in buffers else state[name]

    return Source("denoiser", module, made, read)


def companions(preset: Preset, precision: Precision) -> list[Source]:
    """List the sources of VAE and text encoder; none for nano and for tiny."""
    if not preset.model.has_learned_codec or preset.name == TINY.name:
        return []
    return [vae_source(preset, precision), text_source(preset, precision)]


def vae_source(preset: Preset, precision: Precision) -> Source:
    """Make the VAE's source: encoder and decoder, plain or temporal, as VENHANCER_VAE says."""
    from venhancer.encoders.autoencoder import load_codec

    codec = load_codec(dtype=getattr(torch, precision))
    specs = networks(preset.model, precision)

    def encode(frames: Tensor) -> tuple[Tensor, ...]:
        return codec.moments(frames)

    def decode(latents: Tensor) -> tuple[Tensor, ...]:
        return (codec.pixels(latents),)

    module = codec.network
    made = {
        name: Network(specs[name], module, function)
        for name, function in (("vae_encoder", encode), ("vae_decoder", decode))
    }
    return Source("vae", module, made, _held(module))


def text_source(preset: Preset, precision: Precision) -> Source:
    """Make the text encoder's source, with its tokenizer."""
    from venhancer.encoders.text_encoder import load_text_encoder

    encoder = load_text_encoder(dtype=getattr(torch, precision))
    spec = networks(preset.model, precision)["text_encoder"]

    def encode(ids: Tensor) -> tuple[Tensor]:
        return (encoder.network(ids).last_hidden_state.float(),)

    module = encoder.network
    made = {"text_encoder": Network(spec, module, encode)}
    return Source("text_encoder", module, made, _held(module), encoder.tokenizer.save)


def _held(module: nn.Module) -> Read:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return tensors.__getitem__


def digest(module: nn.Module) -> str:
    """Hash names and weights, to distinguish checkpoints."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
