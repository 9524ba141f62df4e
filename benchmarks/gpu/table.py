"""Print what a run found: `python -m benchmarks.gpu.table FOLDER`, its steps and its results."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.records import read_results, read_steps

KNOWN = ("step", "what", "at")  # of every result, beside its figures
WIDTH = 200  # letters of a line


def figures(result: Mapping[str, Any]) -> str:
    """Everything that a result found, on one line."""
    return ", ".join(
        f"{name} {shown(name, value)}" for name, value in result.items() if name not in KNOWN
    )


def shown(name: str, value: Any) -> str:
    """A figure for readers: bytes in GB, whatever holds others by its parts."""
    if isinstance(value, Mapping):
        return "(" + "; ".join(f"{key} {shown(key, part)}" for key, part in value.items()) + ")"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if name.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(shown(name, part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def lines(folder: Path) -> Iterator[str]:
    """A line for every step, then one for every result."""
    for step in read_steps(folder):
        yield f"{step.stage:2} {step.name:20} {step.code:>8} {step.seconds:>5} of {step.limit:>4} s"
    for result in read_results(folder):
        yield f"{result['step']}: {result['what']}: {figures(result)}"[:WIDTH]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for line in lines(parser.parse_args().folder):
        print(line)


if __name__ == "__main__":
    main()
