"""Seconds of work, on what, and how a result is told."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], object]


def wait(device: str) -> None:
    """Until the device has done what was queued."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Work, device: str) -> float:
    """By the wall clock, from an idle device to an idle one."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, the least and the most, to four figures."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def speed_up(before: Sequence[float], after: Sequence[float]) -> float:
    """How many times faster, by pairs: the median over rounds of which each did both."""
    return round(statistics.median(b / a for b, a in zip(before, after, strict=True)), 3)


def describe_device(device: str) -> dict[str, Any]:
    """A card by its name and what drives it, or the threads of the processor."""
    if device == "cpu":
        return {"name": "cpu", "threads": torch.get_num_threads()}
    return {
        "name": torch.cuda.get_device_name(),
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def report(result: dict[str, Any], out: Path | None) -> None:
    """To the file, if there is one, and as the last line."""
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
