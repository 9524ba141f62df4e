"""Settings of a step, and its ways to time and to compare on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Work, four, seconds_of
from venhancer.config import PRESETS, Preset
from venhancer.planning.geometry import fit

FRAME = (1280, 720)  # pixels: what cards are measured at
SMALL_FRAME = (64, 48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Options of a step.

    is_small: a dry run on tiny models, whose numbers mean nothing
    ways: of the step `denoise`; none: all
    """

    device: str
    dtype: str
    is_small: bool
    ways: tuple[str, ...] = ()

    @property
    def preset(self) -> Preset:
        """The model whose evaluations are measured, at random weights."""
        return PRESETS["tiny" if self.is_small else "released"]

    def shape(self, window: int) -> tuple[int, int, int]:
        """Width and height in pixels as that model takes them, and frames."""
        size = fit(*(SMALL_FRAME if self.is_small else FRAME), self.preset.model)
        return size.padded_width, size.padded_height, 4 if self.is_small else window

    def times(self, rounds: int) -> int:
        """Rounds of a measurement; a dry run makes one."""
        return 1 if self.is_small else rounds


def timed(work: Work, device: str, rounds: int) -> list[float]:
    """Seconds of every round, to four figures."""
    return [four(seconds_of(work, device)) for _ in range(rounds)]


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Relative L2, to three figures; infinite where `found` has a value that is not finite."""
    exact = wanted.double()
    error = float((found.double().to(exact.device) - exact).norm() / exact.norm())
    return float(f"{error:.3g}") if math.isfinite(error) else math.inf


@contextmanager
def tensor_float32(is_allowed: bool) -> Iterator[None]:
    """Whether float32 products and convolutions may be computed in TF32 meanwhile."""
    flags: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = is_allowed
        yield
    finally:
        for flag, own in zip(flags, before, strict=True):
            flag.allow_tf32 = own


def card_peak(device: str, work: Callable[[], object]) -> dict[str, int]:
    """Do work -> bytes at its peak on the card; nothing on a processor."""
    if device != "cuda":
        work()
        return {}
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
    }
