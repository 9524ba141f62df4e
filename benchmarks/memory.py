"""Does a longer clip cost more memory? Peak of a run of 60 frames and of one of 600.

A moving 320x180 clip at twice the size, all steps of the preset, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import report
from benchmarks.waves import write_clip
from venhancer.options import Device

SHORT, LONG = 60, 600
LIMIT = 1.2e6  # bytes a frame may add: less than one frame of the output as floats
CHILD = "--child"


def child(frames: int, weights: Path | None, device: Device) -> None:
    """One run; the last line is its peak, and what was predicted."""
    import torch

    from venhancer import Options, enhance
    from venhancer.device import choose_dtype
    from venhancer.memory import need

    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder) / "in.mp4", frames)
        options = Options(scale=2.0, device=device, weights=weights)
        report = enhance(Path(folder) / "in.mp4", Path(folder) / "out.mp4", options)
    told = {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device_bytes": torch.cuda.max_memory_reserved() if device == "cuda" else None,
        "predicted_bytes": need(report.plan, device, choose_dtype("auto", device)).total,
        "latent_bytes": report.plan.latent_bytes,
        "seconds": report.wall,
    }
    print(json.dumps(told))


def measure(frames: int, weights: Path | None, device: Device) -> dict[str, int]:
    extra = ["--weights", str(weights)] if weights else []
    words = ["-m", "benchmarks.memory", CHILD, str(frames), "--device", device, *extra]
    command = [sys.executable, *words]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = json.loads(out.splitlines()[-1])
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
    runs = {frames: measure(frames, args.weights, args.device) for frames in (SHORT, LONG)}
    for frames, run in runs.items():
        print(f"{frames} frames: peak {run['peak_bytes'] / 1e6:.0f} MB, ", end="")
        print(f"{run['predicted_bytes'] / 1e6:.0f} MB predicted")
    growth = (runs[LONG]["peak_bytes"] - runs[SHORT]["peak_bytes"]) / (LONG - SHORT)
    print(f"{growth / 1e6:.3f} MB for each frame more, {LIMIT / 1e6} MB allowed")
    found = {"runs": runs, "bytes_per_frame": growth}
    report("benchmarks.memory", args.device, found, args.out)


if __name__ == "__main__":
    main()
