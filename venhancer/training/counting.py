"""Memory and operations of one micro-batch, forward and backward, counted from shapes.

The network runs on tensors without data, and every storage is tracked from its allocation until it
is freed: what autograd saves, what checkpointed blocks hold, and temporary tensors of the backward
pass. Weights, their gradients and the inputs are not included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from venhancer.config import ModelConfig
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.planning.activations import LiveBytes, autoencoder
from venhancer.planning.cards import Kind
from venhancer.planning.cost import sample_inputs
from venhancer.training.parallel import (
    RECOMPUTED,
    checkpoint_activations,
    choose_learning,
    halve_frozen,
)

aten = torch.ops.aten
flash_attention = aten._scaled_dot_product_flash_attention
FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}
LOWERED = (
    F.conv2d,
    F.linear,
    torch.matmul,
)  # what autocast runs in bfloat16
RAISED = (F.group_norm, F.layer_norm, F.interpolate)  # and in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """All settings that decide what a device computes at once."""

    model: ModelConfig
    kind: Kind
    clips: int
    frames: int
    rows: int  # of latents
    columns: int
    trains_prior: bool
    is_half: bool  # bfloat16 where autocast says so, and in frozen weights
    is_checkpointed: bool
    trains_repair: bool = False


@dataclass(frozen=True, slots=True)
class MicroBatchCost:
    """Bytes and operations (two per multiply-add) of a micro-batch."""

    saved: int  # bytes that the forward pass keeps for the backward pass
    peak: int  # largest number of bytes alive, without gradients of weights
    flop: int  # forward, recomputation, and backward


class Operations(TorchDispatchMode):
    """Counter of operations by PyTorch's formulas; unlike PyTorch's, it keeps no tensor alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class OnCuda(TorchFunctionMode):
    """Imitation of CUDA's behaviour on the meta device.

    Attention is flash attention: it saves query, key, value, output and a float32 number for each
    query, but no scores. Autocast has another list on CUDA: normalisation is in float32.
    """

    def __init__(self, is_half: bool) -> None:
        super().__init__()
        self.is_half = is_half

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_attention = func is F.scaled_dot_product_attention
        if self.is_half and (is_attention or func in LOWERED):
            args, kwargs = _cast((args, kwargs), torch.bfloat16)
        elif self.is_half and func in RAISED:
            args, kwargs = _cast((args, kwargs), torch.float32)
        return flash_attention(*args)[0] if is_attention else func(*args, **kwargs)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    def cast(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    return tree_map(cast, tree)


@cache
def count_work(batch: MicroBatch) -> MicroBatchCost:
    """Count forward and backward of `batch`; a model of 2 B weights takes half a minute."""
    with _without_data(batch.kind):
        model = make_denoiser(batch.model)
        inputs = sample_inputs(batch.model, batch.frames, batch.rows, batch.columns, batch.clips)
        _prepare(model, batch)
        with Operations() as operations, LiveBytes() as memory:
            out = model(**inputs)
            saved = memory.live - out.nbytes
            # not the tensor's method: modes would intercept it, and be inactive inside
            torch.autograd.backward(out.float().square().mean())
            del out
    return MicroBatchCost(saved, memory.peak, operations.total)


def _without_data(kind: Kind) -> AbstractContextManager[Any]:
    """Use fake tensors for a CPU: they choose its own kernels, but are slower than meta ones."""
    return FakeTensorMode() if kind == "cpu" else torch.device("meta")


def _prepare(model: Denoiser, batch: MicroBatch) -> None:
    """Prepare a model as `Trainer` and `distribute` do, but drop gradients of weights at once."""
    choose_learning(model, trains_prior=batch.trains_prior, trains_repair=batch.trains_repair)
    if batch.is_half:
        halve_frozen(model)
    _place(model, batch)
    if batch.is_checkpointed:
        checkpoint_activations(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_forget)


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def _place(model: Denoiser, batch: MicroBatch) -> None:
    """Imitate the device in each block too: modes are inactive when backward recomputes them."""
    if batch.kind == "cuda":
        for module in model.modules():
            if isinstance(module, (Denoiser, *RECOMPUTED)):
                _run_within(module, lambda: OnCuda(batch.is_half))
    elif batch.is_half:
        _run_within(model, lambda: torch.autocast("cpu", torch.bfloat16))


def _run_within(module: nn.Module, mode: Callable[[], AbstractContextManager[Any]]) -> None:
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        with mode():
            return forward(*args, **kwargs)

    module.forward = run


@cache
def codec_flop(height: int, width: int) -> int:
    """Count operations of encoding a frame by SD 2.1's VAE; DeviceError without diffusers."""
    with torch.device("meta"):
        network, pixels = autoencoder(), torch.empty(1, 3, height, width)
        with torch.no_grad(), Operations() as operations, OnCuda(is_half=False):
            network.encode(pixels)
    return operations.total
