"""Settings of a step, helpers to time and compare, and the step that describes the machine."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.records import Found, Recorder
from benchmarks.measuring import Work, describe_device, four, git_commit, seconds_of, versions
from benchmarks.speed import ceiling
from venhancer.config import PRESETS, Preset
from venhancer.planning.geometry import fit

FRAME = (1280, 720)  # pixels: the size at which cards are measured
SMALL_FRAME = (64, 48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Options of a step.

    is_small: a dry run on tiny models, whose numbers mean nothing
    ways: variants for the step `denoise`; none given: all
    """

    device: str
    dtype: str
    is_small: bool
    ways: tuple[str, ...] = ()

    @property
    def preset(self) -> Preset:
        """The model whose evaluations are measured, with random weights."""
        return PRESETS["tiny" if self.is_small else "released"]

    def shape(self, window: int) -> tuple[int, int, int]:
        """Return width and height in pixels as that model takes them, and frames."""
        size = fit(*(SMALL_FRAME if self.is_small else FRAME), self.preset.model)
        return size.padded_width, size.padded_height, 4 if self.is_small else window

    def times(self, rounds: int) -> int:
        """Return the rounds of a measurement; a dry run makes one."""
        return 1 if self.is_small else rounds


def timed(work: Work, device: str, rounds: int) -> list[float]:
    """Measure the seconds of every round, to four figures."""
    return [four(seconds_of(work, device)) for _ in range(rounds)]


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Compute the relative L2 error to three figures; infinite if `found` is not finite."""
    exact = wanted.double()
    error = float((found.double().to(exact.device) - exact).norm() / exact.norm())
    return float(f"{error:.3g}") if math.isfinite(error) else math.inf


@contextmanager
def tensor_float32(is_allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 for float32 products and convolutions within the block."""
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
    """Do the work -> bytes at its peak on the card; an empty result on a processor."""
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


# --- the step `environment`: packages, the card and its ceilings ----------------------------------


LIGHT = ("av", "cv2", "einops", "numpy", "safetensors")
HEAVY = ("accelerate", "diffusers", "transformers", "triton")  # seconds each to import


def run_environment(setting: Setting, recorder: Recorder) -> None:
    """Record the card first, so that a run which dies here still says where it was."""
    recorder.tell("machine", machine(setting.device))
    for name in LIGHT if setting.is_small else (*LIGHT, *HEAVY):
        recorder.attempt(f"import {name}", partial(imported, name))
    dtypes = ceiling.DTYPES[setting.device]
    rates = partial(ceiling.measure, setting.device, dtypes, setting.is_small)
    recorder.attempt("ceiling", rates)


def machine(device: str) -> Found:
    """Describe the card, versions, commit and day."""
    found: dict[str, Any] = {
        "device": describe_device(device),
        "versions": versions(),
        "commit": git_commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"free_bytes": free, "total_bytes": total}
    return found


def imported(name: str) -> Found:
    """Return the version of a package after importing it."""
    return {"version": str(getattr(importlib.import_module(name), "__version__", "unknown"))}
