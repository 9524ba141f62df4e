"""What a benchmark result must say about where it came from: no host names, no foreign paths."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WAITING = "OMP_WAIT_POLICY"  # of torch's threads: read when torch is loaded
PACKAGES = (
    *("torch", "numpy", "pillow", "av", "opencv-python-headless", "imageio-ffmpeg", "ncnn"),
    *("onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt-rtx"),
)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def git_commit() -> str:
    """The checkout's commit, marked when files differ from it; outside git that of $COMMIT."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    told = os.environ.get("COMMIT", "")
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return told
    return done.stdout.strip() or told


def versions() -> dict[str, str]:
    """Versions of what a measurement depends on, of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def shown(argument: str) -> str:
    """An argument as it may be published: absolute paths relative to the checkout, or a name."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def describe_run(module: str) -> dict[str, Any]:
    """Benchmark, command, commit, date, versions and machine, ready for JSON."""
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
