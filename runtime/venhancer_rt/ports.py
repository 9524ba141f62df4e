"""Input and output tensors of a network of fixed shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from venhancer.bundle.manifest import TensorInfo
from venhancer.errors import ShapeError


def as_input(x: Tensor, port: TensorInfo, device: str, network: str) -> Tensor:
    """Convert an input to what the network takes; ShapeError if it is of another size."""
    if tuple(x.shape) != port.shape:
        raise ShapeError(f"{network} takes {port.name} of {port.shape}, not {tuple(x.shape)}")
    return x.to(device, dtype_of(port)).contiguous()


def empty_output(port: TensorInfo, device: str) -> Tensor:
    """Allocate an output in new memory, so that earlier results are kept."""
    return torch.empty(port.shape, dtype=dtype_of(port), device=device)


def dtype_of(port: TensorInfo) -> torch.dtype:
    return getattr(torch, port.dtype)
