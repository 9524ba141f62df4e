"""Does a longer clip cost more memory than its latents? Peak of a 60 and of a 300 frame run.

A moving 320x180 clip at twice the size, one step, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import describe_run
from benchmarks.waves import write_clip

SHORT, LONG = 60, 300
CHILD = "--child"


def child(frames: int, weights: Path | None) -> None:
    """One run; the last line is its peak and how much of that its latents take, in bytes."""
    from venhancer import Options, enhance

    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder) / "in.mp4", frames)
        options = Options(scale=2.0, steps=1, solver="normal", weights=weights)
        report = enhance(Path(folder) / "in.mp4", Path(folder) / "out.mp4", options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak, "latent_bytes": report.plan.latent_bytes}))


def measure(frames: int, weights: Path | None) -> dict[str, int]:
    extra = ["--weights", str(weights)] if weights else []
    command = [sys.executable, "-m", "benchmarks.memory", CHILD, str(frames), *extra]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = json.loads(out.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument(CHILD, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.weights)
        return
    runs = {frames: measure(frames, args.weights) for frames in (SHORT, LONG)}
    besides = {f: run["peak_bytes"] - run["latent_bytes"] for f, run in runs.items()}
    for frames, run in runs.items():
        print(f"{frames} frames: peak {run['peak_bytes'] / 1e6:.0f} MB, ", end="")
        print(f"{run['latent_bytes'] / 1e6:.0f} MB of it latents")
    ratio = besides[LONG] / besides[SHORT]
    print(f"besides latents, {LONG} frames take {ratio:.3f} times what {SHORT} take")
    result = {**describe_run("benchmarks.memory"), "runs": runs, "ratio": ratio}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
