"""One training run on two processes over gloo: equal to one process, and killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.paths import ROOT

WORKER = ROOT / "tests" / "support" / "training_worker.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
Losses = dict[int, list[float]]


def launch(run: Path, processes: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Launch the worker on so many processes, without the environment of an outer launcher."""
    run.mkdir(exist_ok=True)
    return subprocess.run(
        [*TORCHRUN, str(processes), str(WORKER), str(run), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def losses(run: Path) -> Losses:
    """Return loss and gradient norm by update; of a repeated update, the later ones."""
    lines = map(json.loads, (run / "losses.jsonl").read_text().splitlines())
    return {step: values for step, *values in lines}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an uninterrupted run of four updates on two processes."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = launch(run, 2)
    assert done.returncode == 0, done.stderr
    return run


def test_files_given_up_anywhere_are_told(whole: Path) -> None:
    """The skipped files of every process reach the one that writes the log."""
    told = json.loads((whole / "skipped.json").read_text())
    assert told == ["clip 1: too short", "clip 3: too small"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the same run, killed by SIGKILL after update 3; its checkpoint is of update 2."""
    run = tmp_path_factory.mktemp("runs") / "killed"
    done = launch(run, 2, "--kill-at", "3")
    assert done.returncode != 0
    assert sorted(losses(run)) == [1, 2, 3]
    return run


def test_a_killed_run_goes_on_bit_for_bit(whole: Path, killed: Path, tmp_path: Path) -> None:
    """The same command gives losses and weights of the uninterrupted run."""
    run = Path(shutil.copytree(killed, tmp_path / "run"))

    resumed = launch(run, 2)

    assert resumed.returncode == 0, resumed.stderr
    assert losses(run) == losses(whole)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, run))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_another_number_of_processes_can_go_on(whole: Path, killed: Path, tmp_path: Path) -> None:
    """From a checkpoint of two, one process does the same updates, up to rounding."""
    run = Path(shutil.copytree(killed, tmp_path / "run"))

    alone = launch(run, 1)

    assert alone.returncode == 0, alone.stderr
    assert sorted(losses(run)) == [1, 2, 3, 4]
    for step, values in losses(run).items():
        assert values == pytest.approx(losses(whole)[step], rel=1e-4), step


@pytest.mark.parametrize(
    "sharding", ["optimizer", pytest.param("parameters", marks=pytest.mark.slow)]
)
def test_sharding_changes_nothing(whole: Path, tmp_path: Path, sharding: str) -> None:
    """Losses, gradients and exported weights over two processes are those with whole copies."""
    done = launch(tmp_path / "run", 2, "--sharding", sharding)

    assert done.returncode == 0, done.stderr
    for step, values in losses(tmp_path / "run").items():
        assert values == pytest.approx(losses(whole)[step], rel=1e-3), step
    expected, found = (load_file(run / "model.safetensors") for run in (whole, tmp_path / "run"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=1e-2)


def test_no_number_on_one_process_stops_all(tmp_path: Path) -> None:
    """A NaN loss ends every process; each names the clips of the process that had it."""
    done = launch(tmp_path / "run", 2, "--break-rank", "1")

    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "update 2: the loss is no number" in line]
    assert len(told) >= 2
    assert all("clip 6, clip 7" in line and "clip 4" not in line for line in told)
