"""A run on several devices: processes, sharded weights, recomputed activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from venhancer.model.attention import SpatialTransformer, TemporalTransformer
from venhancer.model.denoiser import Denoiser
from venhancer.model.flat import FlatBlock
from venhancer.model.layers import ResBlock, Upsample
from venhancer.model.unet import Stage
from venhancer.training.config import Sharding, TrainingConfig

RECOMPUTED = (ResBlock, SpatialTransformer, TemporalTransformer, FlatBlock)
GATHERED = (Stage, FlatBlock)  # modules whose sharded weights are gathered one at a time


def choose_learning(model: Denoiser, *, trains_prior: bool, trains_repair: bool) -> None:
    """Freeze what a run does not train; a flat body and its repair are never trained together."""
    repair = model.controller.repair
    if repair is None:
        model.unet.requires_grad_(trains_prior)
        model.time_embedding.requires_grad_(trains_prior)
        return
    model.requires_grad_(not trains_repair)
    repair.requires_grad_(trains_repair)


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the inputs of each block, and recompute the rest in the backward pass."""
    for module in model.modules():
        if isinstance(module, RECOMPUTED):
            module.forward = partial(  # type: ignore[method-assign]
                checkpoint, module.forward, use_reentrant=False
            )


def distribute(model: Denoiser, config: TrainingConfig, accelerator: Accelerator) -> nn.Module:
    """Wrap the model for this process: on its device, in the configured precision."""
    if config.checkpoint_activations:
        checkpoint_activations(model)
    if config.precision == "bf16":
        halve_frozen(model)
        autocast = torch.autocast(accelerator.device.type, torch.bfloat16)
        model.forward = autocast(model.forward)  # type: ignore[method-assign]
    if config.sharding == "none" or accelerator.num_processes == 1:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return accelerator.prepare_model(model.to(accelerator.device))
    return shard(model.to(accelerator.device), config.sharding)  # FSDP: no channels-last filters


def halve_frozen(model: Denoiser) -> None:
    """Convert frozen weights to bfloat16, which suffices; embeddings of numbers keep float32."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and "_embedding." not in name:
            parameter.data = parameter.data.to(torch.bfloat16)


def shard(model: Denoiser, sharding: Sharding) -> nn.Module:
    """Shard by FSDP2, stage by stage: gradients and moments; for "parameters", weights too.

    With "optimizer", weights stay whole between forward and backward, as in ZeRO-1 and 2.
    """
    split = partial(fully_shard, reshard_after_forward=sharding == "parameters")
    modules = list(model.modules())
    texts = [m.block.second for m in modules if isinstance(m, SpatialTransformer)]
    for module in [
        *(linear for text in texts for linear in (text.key, text.value)),  # called outside stages
        *(m for m in modules if isinstance(m, Upsample)),  # likewise
        *(m for m in modules if isinstance(m, GATHERED)),
    ]:
        split(module)
    split(model)
    return model


@contextmanager
def keeping_gradients(network: nn.Module, is_last: bool) -> Iterator[None]:
    """Synchronise gradients over devices only in the last micro-batch of an update."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(is_last)
        yield
    elif isinstance(network, DistributedDataParallel) and not is_last:
        with network.no_sync():
            yield
    else:
        yield


def local(tensor: Tensor) -> Tensor:
    """Get the part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
