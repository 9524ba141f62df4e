"""Records of a card run: written line by line as results come, printed, and kept.

A run appends lines of JSON to $OUT/results.jsonl, so a run that is cut off keeps the lines it has
written. A failure is a line too, and the rest of the step goes on.

`python -m benchmarks.gpu.records FOLDER` prints the results of a run. With `--keep`, its results
and steps go to benchmarks/results/card/CARD-COMMIT/, to be committed. If that folder exists, steps
and results that ran again replace their earlier ones. The files that benchmarks of stage D wrote go
to benchmarks/results/, named after the card.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]
RESULTS, STEPS = "results.jsonl", "steps.tsv"
LONGEST = 300  # letters of an error's message
INNERMOST = -6  # frames of a traceback


@dataclass(slots=True)
class Recorder:
    """Writes the result lines of one step.

    folder: takes results.jsonl; None: lines are printed only
    is_right: False once something failed or was wrong
    """

    step: str
    folder: Path | None
    begin: float = field(default_factory=time.perf_counter)
    is_right: bool = True

    @classmethod
    def of_environment(cls, step: str) -> Recorder:
        """Make a recorder that writes to the folder in $OUT, if it is set."""
        out = os.environ.get("OUT")
        return cls(step, Path(out) if out else None)

    def tell(self, what: str, found: Found) -> None:
        """Write one result; one with `right` False, or with `failed`, makes the step fail."""
        seconds = round(time.perf_counter() - self.begin, 1)
        line = json.dumps({"step": self.step, "what": what, "at": seconds, **found})
        print(line, flush=True)
        self.is_right &= bool(found.get("right", True)) and "failed" not in found
        if self.folder is not None:
            with (self.folder / RESULTS).open("a") as file:
                file.write(line + "\n")

    def attempt(self, what: str, work: Callable[[], Found]) -> None:
        """Write what `work` returns, or why it failed."""
        try:
            found = work()
        except Exception as error:  # of any kind: the rest of the step goes on
            traceback.print_exc(limit=INNERMOST)
            found = {"failed": f"{type(error).__name__}: {str(error)[:LONGEST]}"}
        self.tell(what, found)


STOPPED = "124"  # ended at its time limit, as a training is meant to be


@dataclass(frozen=True, slots=True)
class Step:
    """One line of steps.tsv: a process of the run, and how it ended."""

    stage: str
    name: str
    code: str  # exit status, or `skipped`
    seconds: str
    limit: str

    @property
    def is_done(self) -> bool:
        return self.code == "0" or (self.name == "train" and self.code == STOPPED)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run, in order; a line that was cut off in the middle is left out."""
    path = folder / RESULTS
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def read_steps(folder: Path) -> list[Step]:
    """Read how the processes of a run ended, without the header line."""
    path = folder / STEPS
    lines = path.read_text().splitlines()[1:] if path.is_file() else []
    return [Step(*line.split("\t")) for line in lines]


# --- printing -------------------------------------------------------------------------------------


KNOWN = ("step", "what", "at")  # in every result, beside its figures
WIDTH = 200  # letters of a line


def figures(result: Mapping[str, Any]) -> str:
    """Format all figures of a result on one line."""
    return ", ".join(
        f"{name} {shown(name, value)}" for name, value in result.items() if name not in KNOWN
    )


def shown(name: str, value: Any) -> str:
    """Format a figure for readers: bytes in GB, a nested value part by part."""
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
    """Yield a line for every step, then one for every result."""
    for step in read_steps(folder):
        yield f"{step.stage:2} {step.name:20} {step.code:>8} {step.seconds:>5} of {step.limit:>4} s"
    for result in read_results(folder):
        yield f"{result['step']}: {result['what']}: {figures(result)}"[:WIDTH]


# --- keeping --------------------------------------------------------------------------------------


ROOT = Path(__file__).resolve().parents[2]
RESULTS_OF_ALL = ROOT / "benchmarks" / "results"
CARD_RESULTS = RESULTS_OF_ALL / "card"
TITLES = ("stage", "step", "code", "seconds", "limit")
COMMIT_LETTERS = 10


def machine_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the line that names card and commit; SystemExit if the run has none."""
    for result in results:
        if result["what"] == "machine":
            return result
    raise SystemExit("no line of the step `environment` in results.jsonl: stage A writes it")


def card_name(machine: dict[str, Any]) -> str:
    """Return the card's name as part of a file name, such as nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", machine["device"]["name"].lower()).strip("-")


def folder_name(machine: dict[str, Any], commit: str) -> str:
    """Return the card's name and the commit; SystemExit if the commit is unknown."""
    commit = commit or machine["commit"]
    if not commit:
        raise SystemExit("the run does not tell its commit: name it by --commit")
    return f"{card_name(machine)}-{commit[:COMMIT_LETTERS]}"


def keep(source: Path, target: Path) -> None:
    """Write the run to `target`; steps there that it did not run again stay."""
    results, steps = read_results(source), read_steps(source)
    again = {step.name for step in steps}
    found = {(result["step"], result["what"]) for result in results}
    target.mkdir(parents=True, exist_ok=True)
    before = read_results(target)
    results = [r for r in before if (r["step"], r["what"]) not in found] + results
    steps = [s for s in read_steps(target) if s.name not in again] + steps
    (target / RESULTS).write_text("".join(json.dumps(result) + "\n" for result in results))
    (target / STEPS).write_text("".join(step_lines(steps)))


def step_lines(steps: Sequence[Step]) -> list[str]:
    rows = [(s.stage, s.name, s.code, s.seconds, s.limit) for s in steps]
    return ["\t".join(row) + "\n" for row in (TITLES, *rows)]


def keep_among_results(folder: Path, commit: str) -> None:
    """Keep a run, and the files of its stage D, in the folder that the report reads."""
    machine = machine_of(read_results(folder))
    target = CARD_RESULTS / folder_name(machine, commit)
    keep(folder, target)
    for file in folder.glob("*_cuda.json"):
        shutil.copy(file, RESULTS_OF_ALL / f"{file.stem}_{card_name(machine)}.json")
    print(f"wrote {target.relative_to(ROOT)}: now run python -m benchmarks.report")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.records", description=__doc__)
    parser.add_argument("folder", type=Path, help="with results.jsonl and steps.tsv")
    parser.add_argument("--keep", action="store_true", help="in benchmarks/results/card/")
    parser.add_argument("--commit", default="", help="that ran, where the results do not tell")
    args = parser.parse_args()
    for line in lines(args.folder):
        print(line)
    if args.keep:
        keep_among_results(args.folder, args.commit)


if __name__ == "__main__":
    main()
