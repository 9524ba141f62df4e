"""Whether a run takes Triton's kernels or PyTorch's operators."""

from __future__ import annotations

import importlib.util

import torch

from venhancer.errors import OptionError
from venhancer.options import Kernels

# cards on which they were measured to be faster, by the name that the driver gives: none so far
MEASURED_CARDS: frozenset[str] = frozenset()


def takes_triton(asked: Kernels, device: str) -> bool:
    """`auto` takes what was measured to be faster; OptionError for `triton` where it cannot run."""
    if asked == "triton":
        _require_triton(device)
        return True
    if asked == "torch" or device != "cuda" or not _has_triton():
        return False
    return torch.cuda.get_device_name() in MEASURED_CARDS


def _require_triton(device: str) -> None:
    if device != "cuda":
        raise OptionError("--kernels triton: it needs a CUDA device; take --kernels torch")
    if not _has_triton():
        raise OptionError(
            "--kernels triton: the triton package is missing; install it, or take --kernels torch"
        )


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
