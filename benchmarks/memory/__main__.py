"""Does a longer clip cost more memory? Peak of a run of 60 frames and of one of 600.

A moving 320x180 clip at twice the size, all steps of the preset, each run in a process of its own.
On a CPU the peak is that of the process; on a card it is what PyTorch reserved there, CUDA graphs
included, and the host's peak is given beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.frames import write_clip
from benchmarks.measuring import report, save
from venhancer.options import Device

SHORT, LONG = 60, 600
LIMIT = 1.2e6  # bytes a frame may add: less than one frame of the output as floats
CHILD = "--child"
MODULE = "benchmarks.memory"


def child(frames: int, weights: Path | None, device: Device) -> None:
    """Do one run; the last line is its peak, and the predicted one."""
    from venhancer import Options
    from venhancer.pipeline import run as pipeline
    from venhancer.planning.memory import need
    from venhancer_rt.backends import Request, choose_backend

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        write_clip(source, frames)
        options = Options(scale=2.0, device=device, weights=weights)
        backend = choose_backend(Request(source=source, options=options))
        networks, fallbacks = backend.open(), backend.fallbacks
        made = pipeline.enhance(backend.plan, target, networks, options, fallbacks=fallbacks)
    told = {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        **card_peak(device),
        "predicted_bytes": need(
            made.plan, device, backend.compute.dtype, backend.capture is not None
        ).total,
        "latent_bytes": made.plan.latent_bytes,
        "seconds": made.wall,
    }
    print(json.dumps(told))


def card_peak(device: str) -> dict[str, int]:
    """Return bytes at the peak of the card: reserved by PyTorch, and held by tensors."""
    if device != "cuda":
        return {}
    import torch

    return {
        "device_bytes": torch.cuda.max_memory_reserved(),
        "device_allocated_bytes": torch.cuda.max_memory_allocated(),
    }


def peak(run: Mapping[str, Any]) -> int:
    """Return bytes at the peak of a run: of the card if it used one, else of the process."""
    return int(run.get("device_bytes") or run["peak_bytes"])


def measure(frames: int, weights: Path | None, device: Device) -> dict[str, Any]:
    """Do one run in a fresh process -> its report, or why it failed."""
    extra = ["--weights", str(weights)] if weights else []
    words = ["-m", MODULE, CHILD, str(frames), "--device", device, *extra]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"failed": said[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument(CHILD, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.weights, args.device)
        return
    runs: dict[int, dict[str, Any]] = {}
    for frames in (SHORT, LONG):
        runs[frames] = measure(frames, args.weights, args.device)
        print(f"{frames} frames: {line(runs[frames])}", flush=True)
        save(MODULE, args.device, {"runs": runs}, args.out)
    if failures := [run["failed"] for run in runs.values() if "failed" in run]:
        raise SystemExit(f"{MODULE}: {failures[0]}")
    growth = (peak(runs[LONG]) - peak(runs[SHORT])) / (LONG - SHORT)
    print(f"{growth / 1e6:.3f} MB for each frame more, {LIMIT / 1e6} MB allowed")
    report(MODULE, args.device, {"runs": runs, "bytes_per_frame": growth}, args.out)


def line(run: Mapping[str, Any]) -> str:
    """Format a run for the terminal."""
    if "failed" in run:
        return str(run["failed"])
    return f"peak {peak(run) / 1e6:.0f} MB, {run['predicted_bytes'] / 1e6:.0f} MB predicted"


if __name__ == "__main__":
    main()
