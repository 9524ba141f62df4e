"""Seconds from file to file, per stage: 16 frames of 512x320, twice the size and frames.

Once with the preset's own steps, once with the 14 evaluations of the release.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_run
from benchmarks.waves import write_clip
from venhancer import Options, enhance
from venhancer.config import SolverName

FRAMES, WIDTH, HEIGHT = 16, 512, 320


def measure(clip: Path, steps: int | None, solver: SolverName | None) -> dict[str, Any]:
    """One run: its wall-clock seconds in all and by stage, and its evaluations a window."""
    options = Options(scale=2.0, interpolate=2, steps=steps, solver=solver, overwrite=True)
    start = time.perf_counter()
    report = enhance(clip, clip.with_name("out.mp4"), options)
    seconds = time.perf_counter() - start
    steps_taken = len(report.plan.sampling.schedule)
    return {"steps": steps_taken, "seconds": seconds, "stages": report.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "in.mp4"
        write_clip(clip, FRAMES, WIDTH, HEIGHT)
        runs = [measure(clip, None, None), measure(clip, 15, "fast")]
    for run in runs:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in run["stages"].items())
        print(f"{run['steps']} evaluations: {run['seconds']:.1f} s ({stages})")
    result = {**describe_run("benchmarks.end_to_end"), "runs": runs}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
