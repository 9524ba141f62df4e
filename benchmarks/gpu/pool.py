"""Make the pools that NANO trains and is validated on, out of the clips of a pack, on all cores.

`venhancer-train pool` works on one core. Here as many of them as there are cores work at a time,
each with a seed of its own; their parts are put together into one pool.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

POOL = "pool.json"
SAMPLES = {"train": 4800, "validation": 384}
VALIDATION_SEED = 1000  # far from those of the parts that are trained on


def shares(samples: int, processes: int) -> list[int]:
    """Samples for each process, so that no two differ by more than one and none has nothing."""
    count = min(samples, processes)
    return [samples // count + (number < samples % count) for number in range(count)]


def command(media: Path, out: Path, samples: int, seed: int) -> list[str]:
    words = ["pool", str(media), "-o", str(out), "--samples", str(samples), "--seed", str(seed)]
    return [sys.executable, "-m", "venhancer.training", *words]


def start(media: Path, out: Path, samples: int, seed: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(media, out, samples, seed), env=environment)


def merge(parts: Sequence[Path], out: Path) -> int:
    """Move the parts of several pools into one -> how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    files = [file for part in parts for file in sorted(part.glob("part-*.npz"))]
    for number, file in enumerate(files):
        file.replace(out / f"part-{number:04d}.npz")
    described = [part / POOL for part in parts if (part / POOL).is_file()]
    if described:
        (out / POOL).write_text(described[0].read_text())
    return len(files)


def make(pack: Path, out: Path, processes: int, samples: dict[str, int]) -> None:
    """Both pools beside each other; SystemExit where one of them has no sample."""
    running: dict[str, list[tuple[Path, subprocess.Popen[bytes]]]] = {}
    for name, count in samples.items():
        own = processes if name == "train" else 1
        first = VALIDATION_SEED if name == "validation" else 0
        running[name] = []
        for number, share in enumerate(shares(count, own)):
            part = out / f"{name}-{number}"
            running[name].append((part, start(pack / name, part, share, first + number)))
    for name, made in running.items():
        for _, process in made:
            process.wait()
        files = merge([part for part, _ in made], out / name)
        print(f"{name}: {files} parts", flush=True)
        if not files:
            raise SystemExit(f"{pack / name} gave no samples")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="with folders train and validation")
    parser.add_argument("out", type=Path, help="takes the pools train and validation")
    parser.add_argument("--samples", type=int, default=SAMPLES["train"], help="to train on")
    args = parser.parse_args()
    processes = max(1, (os.cpu_count() or 2) - 1)
    make(args.pack, args.out, processes, {**SAMPLES, "train": args.samples})


if __name__ == "__main__":
    main()
