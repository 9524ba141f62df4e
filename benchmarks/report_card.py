"""Runs on cards, as pages tell of them: which stages are done, and what each step found.

A run is a folder of benchmarks/results/card/, named CARD-COMMIT, that `benchmarks.gpu.keep` wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.keep import COMMIT_LETTERS, machine_of
from benchmarks.gpu.records import Step, read_results, read_steps
from benchmarks.gpu.table import figures
from benchmarks.report_tables import NONE, markdown

FOLDER = "card"  # in the results' folder
TITLE = "What did runs on a card find?"
ABOUT = (
    "Runs of [gpu/card_run.sh](gpu/card_run.sh), step by step; [gpu/README.md](gpu/README.md) says "
    "how they are made. The figures are those of one process each, not of turns."
)
NO_RUN = "No card has run it yet."
STAGES = {
    "A": "right: captures, kernels, whole runs and golden arrays on the card",
    "B": "fast: one evaluation of the released model at 720p, the autoencoder, a profile",
    "C": "train: updates of NANO, and a run of some minutes",
    "D": "the rest: candidates layer by layer, whole films of both models",
}
STEPS = {  # as card_run.sh names them
    "A": ("environment", "captures", "kernels", "enhance", "graphs", "golden"),
    "B": (
        *("profile", "denoise", "denoise_bfloat16", "codec", "denoise_plain"),
        "denoise_compiled",
    ),
    "C": ("update", "pool", "train"),
    "D": ("candidates", "end_to_end", "end_to_end_released"),
}
WAITING = "waiting"
BEGIN, END = "<!-- stages: by python -m benchmarks.report -->", "<!-- end of stages -->"


@dataclass(frozen=True, slots=True)
class CardRun:
    """One run that was kept."""

    name: str
    machine: Mapping[str, Any]
    steps: Sequence[Step]
    results: Sequence[Mapping[str, Any]]

    @property
    def card(self) -> str:
        return str(self.machine["device"]["name"])

    @property
    def commit(self) -> str:
        return self.name.rpartition("-")[2][:COMMIT_LETTERS]

    def of_stage(self, stage: str) -> list[Step]:
        return [step for step in self.steps if step.stage == stage]


def read_runs(folder: Path) -> list[CardRun]:
    """All runs below the results' folder, the newest last."""
    found = []
    for path in sorted(p for p in (folder / FOLDER).glob("*") if p.is_dir()):
        results = read_results(path)
        found.append(CardRun(path.name, machine_of(results), read_steps(path), results))
    return sorted(found, key=lambda run: str(run.machine["date"]))


def status(stage: str, runs: Sequence[CardRun]) -> str:
    """Whether the newest run with that stage has done all its steps, or that none has it."""
    own = [run for run in runs if run.of_stage(stage)]
    if not own:
        return WAITING
    run = own[-1]
    done = {step.name for step in run.of_stage(stage) if step.is_done}
    rest = [name for name in STEPS[stage] if name not in done]
    where = f"{run.card} at {run.commit}"
    return f"on {where} all but {', '.join(rest)}" if rest else f"done on {where}"


def stage_table(runs: Sequence[CardRun]) -> str:
    """A line for every stage, with the command that runs it."""
    rows = [
        (stage, what, f"`bash benchmarks/gpu/card_run.sh {stage}`", status(stage, runs))
        for stage, what in STAGES.items()
    ]
    return markdown(("stage", "what it answers", "command", "status"), rows)


def with_stages(page: str, runs: Sequence[CardRun]) -> str:
    """The page with its table of stages written anew, between the two marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{stage_table(runs)}\n{END}{after}"


def section(runs: Sequence[CardRun]) -> str:
    """A part of benchmarks/README.md."""
    parts = [part for run in runs for part in tables(run)]
    return "\n\n".join([f"## {TITLE}", ABOUT, *(parts or [NO_RUN])])


def tables(run: CardRun) -> Iterator[str]:
    """Write where it ran, how every step ended, and what it found."""
    versions = ", ".join(f"{name} {text}" for name, text in run.machine["versions"].items())
    yield f"### {run.card}, commit {run.commit}, {run.machine['date']}\n\n{versions}"
    yield markdown(
        ("stage", "step", "exit status", "seconds", "limit"),
        ((s.stage or NONE, s.name, s.code, s.seconds, s.limit) for s in run.steps),
    )
    yield markdown(
        ("step", "what", "found"),
        ((r["step"], r["what"], figures(r)) for r in run.results if r is not run.machine),
    )
