"""Records of a card run: lines of JSON in $OUT/results.jsonl, appended as they come.

A run that is cut off keeps the lines that are there. A failure is a line too, and later work of the
same step goes on.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]
RESULTS, STEPS = "results.jsonl", "steps.tsv"
LONGEST = 300  # letters of an error's message
INNERMOST = -6  # frames of a traceback


@dataclass(slots=True)
class Recorder:
    """The lines of one step.

    folder: takes results.jsonl; None: lines are printed only
    is_right: False once something failed or was not as it has to be
    """

    step: str
    folder: Path | None
    begin: float = field(default_factory=time.perf_counter)
    is_right: bool = True

    @classmethod
    def of_environment(cls, step: str) -> Recorder:
        """Writes to the folder that $OUT names, where it names one."""
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


STOPPED = "124"  # at its limit, as a training is meant to be


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
    """The lines of a run, in their order; one that was cut off in the middle is left out."""
    path = folder / RESULTS
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def read_steps(folder: Path) -> list[Step]:
    """Read how the processes of a run ended, without the line of titles."""
    path = folder / STEPS
    lines = path.read_text().splitlines()[1:] if path.is_file() else []
    return [Step(*line.split("\t")) for line in lines]
