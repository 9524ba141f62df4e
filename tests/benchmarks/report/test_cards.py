"""The page's parts about cards: projection, commands, stages and runs."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from benchmarks.gpu import records
from benchmarks.gpu.records import RESULTS, STEPS, lines, read_results
from benchmarks.report import __main__ as report
from benchmarks.report import cards
from benchmarks.speed import denoise_step
from venhancer_export.cli import build_parser


@pytest.mark.parametrize("card", cards.BUILDERS)
def test_the_commands_of_a_card_are_understood(card: str) -> None:
    """Each benchmark's parser accepts its command, and every benchmark has one."""
    for command in cards.commands(card):
        words = [word for word in shlex.split(command) if "=" not in word]
        if words[0] == "venhancer-export":
            assert build_parser().parse_args(words[1:]).gpu == [card.lower()]
        elif words[0] == "python":
            assert importlib.util.find_spec(words[2]) is not None
        if "benchmarks.speed.denoise_step" in words:
            assert denoise_step.build_parser().parse_args(words[3:]).window == [16]


@pytest.mark.parametrize("window", cards.WINDOWS)
def test_the_projection_counts_what_a_run_would_do(window: int) -> None:
    """Windows of a minute overlap by about half, and each has as many evaluations as steps."""
    plan = cards.minute(window)

    assert (plan.geometry.width, plan.geometry.height) == (1280, 720)
    assert 1.5 < plan.windows * window / cards.MINUTE < 2.1
    assert plan.evaluations == 2 * plan.windows * 14


COMMIT = 40 * "b"


def kept_run(folder: Path, steps: list[tuple[str, str, str]], what: str = "exact") -> Path:
    """Write a folder as a run on a card brings it back."""
    folder.mkdir(parents=True)
    machine = {
        "device": {"name": "NVIDIA H200"},
        "versions": {"torch": "2.11.0"},
        "commit": "",
        "date": "2026-01-02",
    }
    found = [
        {"step": "environment", "what": "machine", "at": 0.1, **machine},
        {"step": "denoise", "what": what, "at": 3.0, "seconds": [1.25], "reserved_bytes": 21e9},
    ]
    (folder / RESULTS).write_text("".join(json.dumps(line) + "\n" for line in found) + '{"cut')
    rows = [("stage", "step", "code", "seconds", "limit"), *((*s, "9", "60") for s in steps)]
    (folder / STEPS).write_text("".join("\t".join(row) + "\n" for row in rows))
    return folder


def test_a_stage_is_done_when_all_its_steps_are(tmp_path: Path) -> None:
    """Until it is done the table names the steps that are left; steps that ran again count."""
    steps = [("B", name, "0") for name in cards.STEPS["B"]]
    run = kept_run(tmp_path / "first", [*steps[:-1], (*steps[-1][:2], "124")])
    target = tmp_path / "card" / records.folder_name(records.machine_of(read_results(run)), COMMIT)
    records.keep(run, target)
    before = cards.status("B", cards.read_runs(tmp_path))
    records.keep(kept_run(tmp_path / "again", steps[-1:], "plain"), target)
    runs = cards.read_runs(tmp_path)

    assert before == "on NVIDIA H200 at bbbbbbbbbb all but denoise_compiled"
    assert cards.status("B", runs) == "done on NVIDIA H200 at bbbbbbbbbb"
    assert cards.status("A", runs) == "waiting"
    assert len(runs[0].steps) == len(steps)
    assert {r["what"] for r in runs[0].results} == {"machine", "exact", "plain"}


def test_the_page_has_the_figures_of_a_run(tmp_path: Path) -> None:
    """Each run has a section with steps and results; without any run the page says so."""
    kept_run(tmp_path / "card" / "nvidia-h200-bbbbbbbbbb", [("B", "denoise", "0")])

    page = cards.runs_section(cards.read_runs(tmp_path))

    assert "### NVIDIA H200, commit bbbbbbbbbb, 2026-01-02" in page
    assert "| denoise | exact | seconds 1.25, reserved_bytes 21.00 GB |" in page
    assert cards.NO_RUN in cards.runs_section([])
    assert "denoise: exact: seconds 1.25" in "\n".join(
        lines(tmp_path / "card" / "nvidia-h200-bbbbbbbbbb")
    )


def test_the_list_of_stages_is_what_the_runs_say() -> None:
    """GPU_TODO.md holds a generated table: after a run, call `python -m benchmarks.report`."""
    assert report.GPU_TODO.read_text(encoding="utf-8") == report.render_todo(report.RESULTS)


def test_a_run_without_a_commit_is_not_kept() -> None:
    """Figures without a commit are refused."""
    machine = {"device": {"name": "NVIDIA H200"}, "commit": ""}

    with pytest.raises(SystemExit, match="--commit"):
        records.folder_name(machine, "")
