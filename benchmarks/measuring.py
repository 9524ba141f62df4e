"""Timing, the origin of a result, and the command line and file of a measurement."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from venhancer.files import write_text

Work = Callable[[], object]


def wait(device: str) -> None:
    """Wait until the device has done all queued work."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Work, device: str) -> float:
    """Measure wall-clock seconds, from an idle device to an idle one."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the minimum and the maximum, to four figures."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: four(value) for name, value in found.items()}


def four(value: float) -> float:
    """Round to four figures."""
    return float(f"{value:.4g}")


def speed_up(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the median over rounds of before / after, where each round ran both."""
    return round(statistics.median(b / a for b, a in zip(before, after, strict=True)), 3)


def describe_device(device: str) -> dict[str, Any]:
    """Describe a card by its name and driver, or the processor by its threads."""
    if device == "cpu":
        return {"name": "cpu", "threads": torch.get_num_threads()}
    return {
        "name": torch.cuda.get_device_name(),
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options of every measurement: the device and the results file."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path)
    return parser


def parse_size(text: str) -> tuple[int, int]:
    """An argument such as 1280x720."""
    width, height = text.split("x")
    return int(width), int(height)


def save(module: str, device: str, found: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Write the results so far, if there is a file -> them, with benchmark and machine.

    Called after every case, so that a run which is cut off keeps the earlier cases.
    """
    result = {**describe_run(module), "device": describe_device(device), **found}
    if out is not None:
        write_text(out, json.dumps(result, indent=1) + "\n")
    return result


def report(module: str, device: str, found: dict[str, Any], out: Path | None) -> None:
    """Write everything to the file, if there is one, and print it as the last line."""
    print(json.dumps(save(module, device, found, out)))


# --- where a result comes from --------------------------------------------------------------------


ROOT = Path(__file__).resolve().parents[1]
WAITING = "OMP_WAIT_POLICY"  # of torch's threads: read when torch is loaded
PACKAGES = (
    *("torch", "numpy", "pillow", "av", "opencv-python-headless", "imageio-ffmpeg", "ncnn"),
    *("onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt-rtx"),
)


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def git_commit() -> str:
    """Return the checkout's commit, marked if files differ from it; outside git, $COMMIT."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    told = os.environ.get("COMMIT", "")
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return told
    return done.stdout.strip() or told


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that a measurement depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def shown(argument: str) -> str:
    """Make an argument fit to publish: absolute paths relative to the checkout, or the name."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def describe_run(module: str) -> dict[str, Any]:
    """Describe benchmark, command, commit, date, versions and machine, ready for JSON."""
    policy = os.environ.get(WAITING)
    setting = [] if policy is None else [f"{WAITING}={policy}"]
    return {
        "benchmark": module,
        "command": " ".join([*setting, "python", "-m", module, *map(shown, sys.argv[1:])]),
        "commit": git_commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": versions(),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count()},
    }
