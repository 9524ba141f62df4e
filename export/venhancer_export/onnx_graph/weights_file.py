"""The weights of a module in one file, shared by its graphs of all shapes.

All graphs of a bundle that come from one checkpoint refer to the same bytes. Tensors are written
one by one, so that a model is never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from venhancer.errors import WeightsError

PAGE = 4096  # alignment, so that a runtime can map tensors into memory
FLOAT16_MAX = 65504.0
Read = Callable[[str], Tensor]  # a weight by its name in the module


@dataclass(frozen=True, slots=True)
class Stored:
    """Place and format of one tensor in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_transposed: bool

    @property
    def length(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def lay_out(module: nn.Module) -> dict[str, Stored]:
    """Choose a place for every parameter and buffer of `module`, in order of their names.

    The weight of a linear layer is stored as (in, out), as a matrix product needs it.
    """
    linear = {f"{n}.weight" for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    places, offset = {}, 0
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, weight in sorted(tensors.items()):
        is_linear, shape = name in linear, tuple(weight.shape)
        place = Stored(offset, shape[::-1] if is_linear else shape, weight.dtype, is_linear)
        places[name] = place
        offset = -(-(offset + place.length) // PAGE) * PAGE
    return places


def file_size(places: dict[str, Stored]) -> int:
    return max((place.offset + place.length for place in places.values()), default=0)


def write_weights(path: Path, places: dict[str, Stored], read: Read) -> None:
    """Write every tensor; WeightsError for one that float16 cannot hold."""
    with path.open("wb") as file:
        for name, place in places.items():
            file.seek(place.offset)
            data = _placed(name, read(name).detach().cpu(), place)
            file.write(data.reshape(-1).view(torch.uint8).numpy().data)


def _placed(name: str, tensor: Tensor, place: Stored) -> Tensor:
    _check_range(name, tensor, place.dtype)
    data = tensor.T if place.is_transposed else tensor
    assert tuple(data.shape) == place.shape, name
    return data.to(place.dtype).contiguous()


def _check_range(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if dtype != torch.float16 or not tensor.numel():
        return
    largest = float(tensor.abs().max())
    if not largest <= FLOAT16_MAX:
        raise WeightsError(
            f"{name} reaches {largest:.3g}, float16 ends at {FLOAT16_MAX:g}: export it as float32"
        )
