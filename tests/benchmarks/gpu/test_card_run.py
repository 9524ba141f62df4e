"""The card run: dry on a processor, with failing steps, and what becomes of its results."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import enhance, golden, graphs, speed, training
from benchmarks.gpu.records import Recorder, read_results, read_steps
from benchmarks.gpu.setting import Setting
from benchmarks.report import cards
from benchmarks.speed import vae
from tests.support.paths import ROOT
from venhancer.config import NANO

SCRIPT = ROOT / "benchmarks" / "gpu" / "card_run.sh"
DRY = Setting(device="cpu", dtype="float32", is_small=True)
COMMIT = 40 * "b"
INTERPRETER = """#!/bin/bash
case "$*" in
    *"benchmarks.gpu golden"*) echo "no golden arrays here" >&2; exit 3 ;;
    *"benchmarks.gpu enhance"*) kill -KILL $$ ;;
    *"benchmarks.gpu codec"*) exec sleep 60 ;;
esac
exec "{python}" "$@"
"""


def run_script(folder: Path, stages: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as on a card, with an interpreter that makes some steps fail or hang."""
    interpreter = folder / "python"
    interpreter.write_text(INTERPRETER.format(python=sys.executable))
    interpreter.chmod(0o755)
    out = {"OUT": str(folder / "out"), "PYTHON": str(interpreter), "PACK": str(folder)}
    environment = {**os.environ, **out, "DEVICE": "cpu", "OMP_NUM_THREADS": "1", **variables}
    command = ["bash", str(SCRIPT), *stages]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def dry(
    step: Callable[[Setting, Recorder], None], folder: Path, setting: Setting = DRY
) -> list[dict[str, Any]]:
    """Return the results of a step in this process; a wrong or failed one raises an error."""
    recorder = Recorder(step.__name__.removeprefix("run_"), folder)
    step(setting, recorder)
    found = read_results(folder)
    assert recorder.is_right, found
    return found


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of a run in which one step is killed and one fails."""
    folder = tmp_path_factory.mktemp("run")
    done = run_script(folder, "A", ONLY="golden enhance environment", COMMIT=COMMIT)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def test_a_step_that_fails_does_not_stop_the_rest(script: Path) -> None:
    """Every process has its own exit status, and results written before a failure stay."""
    found = {step.name: step.code for step in read_steps(script / "out")}

    assert found == {"environment": "0", "enhance": "137", "golden": "3"}
    assert {r["step"] for r in read_results(script / "out")} == {"environment"}


def test_a_step_that_hangs_is_ended(tmp_path: Path) -> None:
    """A step that hangs is ended at its time limit and recorded so; the next one begins."""
    run_script(tmp_path, "BA", ONLY="codec golden", STEP_S="1")

    assert [step.code for step in read_steps(tmp_path / "out")] == ["124", "3"]


def test_the_log_and_the_table_tell_of_every_step(script: Path) -> None:
    """The log has each command with its exit status; the table comes last."""
    log = (script / "out" / "run.log").read_text()
    printed = (script / "printed").read_text()

    assert "##### A environment: exit status 0" in log
    assert "##### A golden: exit status 3" in log
    assert "no golden arrays here" in printed
    assert "environment: ceiling: matmul" in printed.splitlines()[-1]


def test_a_run_without_time_skips_by_name(tmp_path: Path) -> None:
    """A step that could not end in time is not begun; the table is written all the same."""
    done = run_script(tmp_path, "AB", RUN_S="5", COMMIT=COMMIT)

    assert done.returncode == 0
    assert {step.code for step in read_steps(tmp_path / "out")} == {"skipped"}


def test_the_stages_are_those_of_the_script(tmp_path: Path) -> None:
    """The report expects exactly the steps that the script has."""
    run_script(tmp_path, "ABCD", RUN_S="5")
    found = read_steps(tmp_path / "out")
    (tmp_path / "train").mkdir()
    run_script(tmp_path, "C", RUN_S="5")
    found += read_steps(tmp_path / "out")

    for stage, names in cards.STEPS.items():
        assert {step.name for step in found if step.stage == stage} == set(names)


@pytest.mark.parametrize("step", command.STEPS)
def test_every_step_has_its_function(step: str) -> None:
    """The command finds each step's function by the step's name."""
    module = importlib.import_module(f"benchmarks.gpu.{command.STEPS[step]}")

    assert callable(getattr(module, f"run_{step}"))


def test_the_released_arrays_are_compared(tmp_path: Path) -> None:
    """The tiny model's outputs equal the released arrays up to rounding."""
    [found] = dry(golden.run_golden, tmp_path)

    assert found["outputs"] == golden.DRY_OUTPUTS
    assert found["relative_error"] < 1e-5


def test_runs_are_compared_frame_by_frame(tmp_path: Path) -> None:
    """Two equal runs give equal frames, and the result says so."""
    found = dry(enhance.run_enhance, tmp_path)

    assert found[-1]["what"] == "eager float32 = graph float32"
    assert found[-1]["equal"]


def test_graphs_hold_the_network_or_the_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three variants differ in what they capture and in nothing that they compute."""
    captured: list[int] = [0]

    def count(work: Any) -> Any:
        captured[-1] += 1
        return work

    monkeypatch.setattr(graphs, "as_it_is", count)
    monkeypatch.setattr(graphs, "shapes", lambda _: [graphs.Shape(NANO, 3, 4, 4)])
    measure = graphs.measure

    def measured(*args: Any) -> Any:
        captured.append(0)
        return measure(*args)

    monkeypatch.setattr(graphs, "measure", measured)
    found = dry(graphs.run_graphs, tmp_path)

    assert [r["what"].rpartition(": ")[2] for r in found] == ["none", "network only", "whole step"]
    assert captured[1] == 0
    assert captured[2] == 1
    assert captured[3] > 1


def test_ways_of_an_evaluation_are_compared_with_the_exact_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release's order of operations gives the same result up to rounding."""
    monkeypatch.setattr(speed, "evaluation_flop", lambda *_: 10**12)  # counting takes long
    setting = Setting(device="cpu", dtype="float32", is_small=True, ways=("exact", "plain"))
    exact, plain = dry(speed.run_denoise, tmp_path, setting)

    assert exact["relative_error"] == 0
    assert 0 < plain["relative_error"] < 1e-4
    assert plain["tflop"] == exact["tflop"] == 1.0


def test_updates_are_timed(tmp_path: Path) -> None:
    """Updates are timed on one batch on the device, and so is the host's drawing of noise."""
    eager, noise = dry(training.run_update, tmp_path)

    assert eager["clips_a_second"] > 0
    assert noise["ms"] > 0


def test_the_codec_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec is timed by the work that the codec's benchmark prepares."""
    monkeypatch.setattr(vae, "prepare", lambda task: (lambda: None, {"peak_bytes": 7}))
    monkeypatch.setattr(vae, "codec_flop", lambda task: 10**12)

    found = dry(speed.run_codec, tmp_path)

    assert [r["what"] for r in found] == [f"{w}, 1 at a time, plain" for w in ("encode", "decode")]
    assert found[0]["peak_bytes"] == 7


def test_events_are_recorded() -> None:
    """Each operation is recorded with its own time and its number of calls."""
    square = torch.ones(8, 8)

    events = speed.recorded(lambda: [square @ square for _ in range(3)], "cpu")

    [product] = [event for event in events if event.key == "aten::mm"]
    assert product.count == 3
    assert speed.milliseconds(product) > 0


def test_kernels_have_kinds() -> None:
    """Kernels are sorted by words in their names; milliseconds and launches are summed."""
    rows = [(2.0, 3, "flash_fwd_kernel"), (1.0, 1, "nchwToNhwcKernel"), (4.0, 2, "fmha_x")]

    found = speed.by_kind(rows)

    assert list(found) == ["attention", "layout copy"]
    assert found["attention"] == {"ms": 6.0, "launches": 5}


def test_a_failure_is_a_result(tmp_path: Path) -> None:
    """The step goes on after a failure, and its exit status says that something failed."""

    def fail() -> dict[str, Any]:
        raise RuntimeError("no memory")

    recorder = Recorder("golden", tmp_path)
    recorder.attempt("first", fail)
    recorder.attempt("second", lambda: {"error": 0.5})

    first, second = read_results(tmp_path)
    assert first["failed"] == "RuntimeError: no memory"
    assert second["error"] == 0.5
    assert not recorder.is_right
