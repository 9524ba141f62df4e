"""Memory of one evaluation and of the codec, computed from shapes alone before anything runs.

The networks run once on the meta device, where tensors have sizes and no data. Every tensor is
followed from the operator that makes it until it is freed. The count does not include what kernels
allocate internally and what the allocator wastes; the margins cover both.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from venhancer.config import VAE_STRIDE, ModelConfig
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.encoders.text_encoder import HEAD_CHANNELS, LAYERS
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.planning.cost import branch_inputs
from venhancer.weights import hub

# Memory that a device takes, divided by the count made here. CPU: measured, with the gaps that
# `keep_freed_memory` leaves between blocks; the largest ratio of all cases above 100 MB
# (`python -m benchmarks.memory.prediction`; NANO's is 1.81, by hand). CUDA: assumed, not measured,
# for the allocator's rounding and the kernels' workspaces; in the codec, whose tensors are not
# channels last, also for copies of what a convolution reads and writes.
DENOISER_MARGIN: Mapping[str, float] = {"cpu": 1.9, "cuda": 1.1}
CODEC_MARGIN: Mapping[str, float] = {"cpu": 2.4, "cuda": 1.5}
VAE_CHANNELS = 4  # of the VAE's latents


class LiveBytes(TorchDispatchMode):
    """Mode that follows the storages made by operators: `live` bytes now, `peak` at most.

    Views and in-place results are not counted, because they share a storage. Weights and inputs
    are not counted, because they were made outside.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}  # bytes of the live storages, by address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(outputs):
            if storage._cdata not in given and storage._cdata not in self._sizes:
                self._follow(storage)
        self.peak = max(self.peak, self.live)
        return outputs

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._sizes[address] = size
        self.live += size
        weakref.finalize(storage, self._forget, address)

    def _forget(self, address: int) -> None:
        self.live -= self._sizes.pop(address)


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, Tensor))


class FusedAttention(TorchFunctionMode):
    """Mode in which attention allocates no scores, like the fused kernels of CPU and CUDA.

    The meta device has no such kernel and would allocate the scores. Flash attention takes heads of
    up to 256 channels; CUDA's memory-efficient kernel also takes wider ones, such as the VAE's 512.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, _, value = args
        b, n, tokens, _ = query.shape
        return query.new_empty(b, tokens, n, value.shape[-1]).transpose(1, 2)


def peak_bytes(work: Callable[[], object]) -> int:
    """Count the bytes of the tensors alive at the peak of `work`, best run on the meta device."""
    with torch.no_grad(), FusedAttention(), LiveBytes() as count:
        result = work()
    del result  # kept alive until the count has ended
    return count.peak


@cache
def denoiser_bytes(
    model: ModelConfig,
    dtype: torch.dtype,
    *,
    branches: int,
    frames: int,
    rows: int,
    columns: int,
) -> int:
    """Count the bytes of activations at the peak of one evaluation: `prepare` and one `step`.

    Inputs and weights are not counted. The result is linear in each size, to within one percent.
    The first call in a process takes seconds, because PyTorch imports its meta kernels.
    """
    with torch.device("meta"):
        inputs = branch_inputs(model, frames, rows, columns, branches)
    network = _on_meta(lambda: make_denoiser(model), dtype)
    with torch.no_grad():
        text = network.prepare_text(inputs.pop("text", None))
    return peak_bytes(lambda: evaluate(network, inputs, text))


def evaluate(network: Denoiser, inputs: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
    """Run `prepare` and one `step`; text: the output of `prepare_text`."""
    conditions = dict(inputs)
    latents, timestep = conditions.pop("latents"), conditions.pop("timestep")
    prepared = network.prepare(**conditions, text_features=text)
    return network.step(latents, timestep, prepared)


class CodecBytes(NamedTuple):
    """Bytes of activations at the peak of one call of the codec's network."""

    encode: int
    decode: int


@cache
def codec_bytes(dtype: torch.dtype, *, frames: int, height: int, width: int) -> CodecBytes:
    """Count SD 2.1's VAE for this many frames of this size in one call.

    The output, in float32, is counted; the input and the weights are not. DeviceError without
    diffusers.
    """
    codec = AutoencoderCodec(_on_meta(autoencoder, dtype))
    pixels = torch.empty(frames, 3, height, width, device="meta")
    latent_size = (VAE_CHANNELS, height // VAE_STRIDE, width // VAE_STRIDE)
    latents = torch.empty(frames, *latent_size, device="meta")
    return CodecBytes(
        encode=peak_bytes(lambda: codec.moments(pixels)),
        decode=peak_bytes(lambda: codec.pixels(latents)),
    )


@cache
def codec_weight_bytes(dtype: torch.dtype) -> int:
    """Count the weight bytes of SD 2.1's VAE, both halves; DeviceError without diffusers."""
    return _weight_bytes(_on_meta(autoencoder, dtype))


@cache
def text_weight_bytes(dtype: torch.dtype) -> int:
    """Count those of OpenCLIP ViT-H/14's text tower; DeviceError without transformers."""
    return _weight_bytes(_on_meta(text_tower, dtype))


def autoencoder() -> Any:
    """Make Stable Diffusion 2.1's VAE, with random weights."""
    return hub.require("diffusers").AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=VAE_CHANNELS,
    )


def text_tower() -> Any:
    """Make the used layers of OpenCLIP ViT-H/14's text tower, with random weights."""
    transformers = hub.require("transformers")
    width = 1024
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // HEAD_CHANNELS,
        hidden_act="gelu",
    )
    return transformers.CLIPTextModel(config)


def _on_meta(build: Callable[[], Any], dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        network = build()
    nn.Module.to(network, dtype)  # diffusers' own `to` warns about an empty list
    return network.eval()


def _weight_bytes(network: nn.Module) -> int:
    return sum(p.numel() * p.itemsize for p in network.parameters())
