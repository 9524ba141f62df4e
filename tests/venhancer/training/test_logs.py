"""Logs of a run: a line per update, the same in TensorBoard, and resumed runs."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from venhancer.training.data.samples import SampleVideo
from venhancer.training.logs import Logs, Update
from venhancer.training.validation import Cell, Score

SCORES = {Cell(1, 2, 0): Score(0.5, 30.0), Cell(1, 4, 0): Score(0.25, 25.0)}


def an_update(step: int) -> Update:
    return Update(
        step=step,
        loss=1 / step,
        learning_rate=1e-5,
        gradient_norm=0.5,
        seconds=2.0,
        data_seconds=0.1,
        clips_per_second=4.0,
        loader_clips_per_second=8.0,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that TensorBoard is not installed."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.mark.usefixtures("no_board")
def test_without_tensorboard_there_are_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything is in the JSON files, and one notice names the missing package."""
    logs = Logs(tmp_path / "run")

    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            logs.update(an_update(step))
        logs.validation(2, SCORES)
        logs.skip(2, ["a.mp4: no frame", "b.mp4: cut short"])
    logs.close()

    assert [record.getMessage().count("tensorboard") for record in caplog.records] == [1]
    [first, second] = lines(tmp_path / "run" / "loss.jsonl")
    assert first == {
        "step": 1,
        "loss": 1.0,
        "learning_rate": 1e-5,
        "gradient_norm": 0.5,
        "seconds": 2.0,
        "data_seconds": 0.1,
        "clips_per_second": 4.0,
        "loader_clips_per_second": 8.0,
    }
    assert second["loss"] == 0.5
    [grid] = lines(tmp_path / "run" / "validation.jsonl")
    assert grid["mean"] == 0.375
    assert lines(tmp_path / "run" / "skipped.jsonl")[1] == {"step": 2, "reason": "b.mp4: cut short"}
    assert logs.skipped == 2


@pytest.mark.usefixtures("no_board")
def test_a_resumed_run_drops_what_came_later(tmp_path: Path) -> None:
    """A line cut off by the crash is dropped too; the first validation is read back."""
    logs = Logs(tmp_path)
    for step in range(1, 6):
        logs.update(an_update(step))
    logs.validation(2, SCORES)
    logs.validation(5, {cell: Score(0.1) for cell in SCORES})
    logs.skip(5, ["c.mp4: no frame"])
    with (tmp_path / "loss.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')

    again = Logs(tmp_path)
    again.forget(3)
    again.update(an_update(4))

    assert [line["step"] for line in lines(tmp_path / "loss.jsonl")] == [1, 2, 3, 4]
    assert [line["step"] for line in lines(tmp_path / "validation.jsonl")] == [2]
    assert (tmp_path / "skipped.jsonl").read_text() == ""
    assert again.first == SCORES


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    """The others count skipped files and leave the folder alone."""
    logs = Logs(tmp_path / "run", is_main=False)

    logs.forget(0)
    logs.update(an_update(1))
    logs.validation(1, SCORES)
    logs.skip(1, ["a.mp4: no frame"])
    logs.samples(1, [SampleVideo(Path("step-00000001_a.mp4"), np.zeros((4, 4, 3), np.uint8))])
    logs.close()

    assert logs.skipped == 1
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_the_same(tmp_path: Path) -> None:
    """It has losses, cells, the grid and stills; a resume drops the later steps there too."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logs = Logs(tmp_path)
    for step in range(1, 4):
        logs.update(an_update(step))
    logs.validation(3, SCORES)
    logs.samples(3, [SampleVideo(Path("step-00000003_a_b.mp4"), np.zeros((4, 12, 3), np.uint8))])
    logs.close()
    time.sleep(1.1)  # files of one second are read in the order of a counter's text, 10 before 9

    again = Logs(tmp_path)
    again.forget(2)
    again.update(an_update(4))
    again.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()

    assert [event.step for event in found.Scalars("train/loss")] == [1, 2, 4]
    assert "validation_loss/stride1_2x_noise0" in found.Tags()["scalars"]
    assert "validation_psnr/stride1_4x_noise0" in found.Tags()["scalars"]
    assert {"samples/a_b", "validation/grid"} == set(found.Tags()["images"])
