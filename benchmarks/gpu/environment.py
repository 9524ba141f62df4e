"""Describes the machine: packages that can be imported, the card, and its two ceilings."""

from __future__ import annotations

import importlib
from datetime import datetime, timezone
from functools import partial
from typing import Any

import torch

from benchmarks import ceiling
from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import Setting
from benchmarks.machine import git_commit, versions
from benchmarks.timing import describe_device

STEP = "environment"
LIGHT = ("av", "cv2", "einops", "numpy", "safetensors")
HEAVY = ("accelerate", "diffusers", "transformers", "triton")  # seconds each


def run(setting: Setting, recorder: Recorder) -> None:
    """Tell the card first, so that a run which dies here still says where it was."""
    recorder.tell("machine", machine(setting.device))
    for name in LIGHT if setting.is_small else (*LIGHT, *HEAVY):
        recorder.attempt(f"import {name}", partial(imported, name))
    dtypes = ceiling.DTYPES[setting.device]
    rates = partial(ceiling.measure, setting.device, dtypes, setting.is_small)
    recorder.attempt("ceiling", rates)


def machine(device: str) -> Found:
    """Card, versions, commit and day."""
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
    """The version of a package that really can be imported."""
    return {"version": str(getattr(importlib.import_module(name), "__version__", "unknown"))}
