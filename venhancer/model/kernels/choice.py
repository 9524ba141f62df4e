"""Choice of a run's kernels: Triton or PyTorch layers, and attention back ends."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace

import torch

from venhancer.errors import OptionError
from venhancer.model.kernels.back_ends import BackEnds
from venhancer.options import Kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Kernels that compute the layers; the default is plain PyTorch."""

    takes_triton: bool = False
    back_ends: BackEnds = field(default_factory=dict)


# the fastest choice measured on each card, by the driver's name of the card; none measured so far
MEASURED_CARDS: dict[str, Choice] = {}


def choose_kernels(asked: Kernels, device: str) -> Choice:
    """Choose kernels: `auto` takes the fastest measured; OptionError if `triton` cannot run."""
    if asked == "triton":
        _require_triton(device)
    if asked == "torch" or device != "cuda":
        return Choice()
    measured = MEASURED_CARDS.get(torch.cuda.get_device_name(), Choice())
    takes_triton = asked == "triton" or (measured.takes_triton and _has_triton())
    return replace(measured, takes_triton=takes_triton)


def _require_triton(device: str) -> None:
    if device != "cuda":
        raise OptionError("--kernels triton: it needs a CUDA device; take --kernels torch")
    if not _has_triton():
        raise OptionError(
            "--kernels triton: the triton package is missing; install it, or take --kernels torch"
        )


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
