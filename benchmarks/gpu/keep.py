"""Keep what a run brought back: `python -m benchmarks.gpu.keep FOLDER`, then commit it.

Results and steps go to benchmarks/results/card/CARD-COMMIT/. Where such a folder is there, steps
that ran again take the place of their earlier ones, and so do results. The files that benchmarks of
stage D wrote go to benchmarks/results/, named after the card.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.records import RESULTS, STEPS, Step, read_results, read_steps
from benchmarks.machine import ROOT

RESULTS_OF_ALL = ROOT / "benchmarks" / "results"
CARDS = RESULTS_OF_ALL / "card"
TITLES = ("stage", "step", "code", "seconds", "limit")
COMMIT_LETTERS = 10


def machine_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line that tells card and commit; SystemExit where the run has none."""
    for result in results:
        if result["what"] == "machine":
            return result
    raise SystemExit("no line of the step `environment` in results.jsonl: stage A writes it")


def card_name(machine: dict[str, Any]) -> str:
    """The card's name as part of the name of a file, such as nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", machine["device"]["name"].lower()).strip("-")


def folder_name(machine: dict[str, Any], commit: str) -> str:
    """The card's name and the commit; SystemExit where nobody knows the commit."""
    commit = commit or machine["commit"]
    if not commit:
        raise SystemExit("the run does not tell its commit: name it by --commit")
    return f"{card_name(machine)}-{commit[:COMMIT_LETTERS]}"


def keep(source: Path, target: Path) -> None:
    """Write the run to `target`, beside those steps there that it did not run again."""
    results, steps = read_results(source), read_steps(source)
    again = {step.name for step in steps}
    found = {(result["step"], result["what"]) for result in results}
    target.mkdir(parents=True, exist_ok=True)
    before = read_results(target)
    results = [r for r in before if (r["step"], r["what"]) not in found] + results
    steps = [s for s in read_steps(target) if s.name not in again] + steps
    (target / RESULTS).write_text("".join(json.dumps(result) + "\n" for result in results))
    (target / STEPS).write_text("".join(_lines(steps)))


def _lines(steps: Sequence[Step]) -> list[str]:
    rows = [(s.stage, s.name, s.code, s.seconds, s.limit) for s in steps]
    return ["\t".join(row) + "\n" for row in (TITLES, *rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with results.jsonl and steps.tsv")
    parser.add_argument("--commit", default="", help="that ran, where the results do not tell")
    args = parser.parse_args()
    machine = machine_of(read_results(args.folder))
    target = CARDS / folder_name(machine, args.commit)
    keep(args.folder, target)
    for file in args.folder.glob("*_cuda.json"):
        shutil.copy(file, RESULTS_OF_ALL / f"{file.stem}_{card_name(machine)}.json")
    print(f"wrote {target.relative_to(ROOT)}: now run python -m benchmarks.report")


if __name__ == "__main__":
    main()
