"""From file to file: the summary over rounds, and the effect of a run that fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.frames import compare
from benchmarks.interleaved import WorkerError
from benchmarks.peers import methods as peers
from benchmarks.peers.networks import PeerError
from benchmarks.report import __main__ as report
from benchmarks.report.tables import QUESTIONS
from benchmarks.speed import denoise_step, end_to_end
from benchmarks.speed.end_to_end import (
    CLIPS,
    OURS,
    PEER,
    PLAIN,
    Clip,
    Task,
    complaint,
    summaries,
    views,
)
from tests.support.clips import small_checkpoint
from venhancer.config import NANO

NANO_CLIP = CLIPS[NANO.name]
SMALL = Clip(
    frames=3, width=64, height=48, interpolate=2, window=5, overlap=0.5, new_frames="model"
)


def test_nothing_runs_before_the_peers_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends at once, with the peer's error line."""

    def load(scale: int) -> None:
        raise PeerError("RIFE is missing")

    monkeypatch.setattr(peers, "load_rife_span", load)
    monkeypatch.setattr(sys, "argv", ["", "--device", "cpu", "--baseline", "rife-span"])

    with pytest.raises(SystemExit, match=r"^benchmarks\.speed\.end_to_end: RIFE is missing$"):
        end_to_end.main()


@pytest.mark.parametrize("module", [end_to_end, denoise_step])
def test_a_flat_body_has_no_release_path(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """NANO is refused by name, before anything runs."""
    shape = ["--size", "16x16", "--window", "3"] if module is denoise_step else []
    monkeypatch.setattr(sys, "argv", ["", "--device", "cpu", "--baseline", "pytorch", *shape])

    with pytest.raises(SystemExit, match=r"^--baseline pytorch: .* nano has a flat body"):
        module.main()


def test_ours_is_near_the_release_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tap holds the frames before encoding; in float32 both paths agree."""
    monkeypatch.setitem(end_to_end.CLIPS, NANO.name, SMALL)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    weights, told = str(small_checkpoint(tmp_path / "small.safetensors")), {}
    for name in (PLAIN, OURS):
        frames = tmp_path / f"{name}.npy"
        task = Task(name=name, preset="nano", weights=weights, device="cpu", frames=str(frames))
        told[name] = end_to_end.prepare(task)[1]

    assert np.load(tmp_path / "ours.npy").shape == (5, 96, 128, 3)
    assert compare(tmp_path / "ours.npy", tmp_path / "plain.npy")["least"] > 60
    assert told[OURS]["dtype"] == told[PLAIN]["dtype"] == "float32"
    assert told[OURS]["steps"] == 2
    assert {"load", "read", "encode", "denoise", "decode", "write"} <= set(told[OURS]["stages"])


def told(seconds: float, model: float, **more: Any) -> dict[str, Any]:
    """Make the report of a run's process."""
    stages = {"load": 1.0, "denoise": model}
    common = {"steps": 4, "dtype": "float32", "peak_bytes": 10, "stages": stages}
    return {**common, "seconds": seconds, "model_seconds": model, **more}


def test_rounds_become_medians_and_pairs() -> None:
    """A round that slows both runs changes no ratio; memory is the maximum over the rounds."""
    plain = [told(20, 18), told(40, 36), told(22, 20)]
    ours = [told(10, 8), told(20, 16, peak_bytes=12), told(11, 9)]

    rows = summaries({PLAIN: plain, OURS: ours}, SMALL)

    row = rows[1]
    assert rows[0]["times_faster"] == 1
    assert (row["times_faster"], row["model_times_faster"]) == (2.0, 2.25)
    assert row["seconds"] == {"median": 11, "least": 10, "most": 20}
    assert row["stages"] == {"load": 1.0, "denoise": 9}
    assert row["peak_bytes"] == 12
    assert row["seconds_per_frame"] == 11 / 5


def test_a_minute_has_windows_that_overlap() -> None:
    """Our model evaluates a minute's frames more often than a short clip's, a peer each once."""
    rows = summaries({OURS: [told(10, 5)], PEER: [told(10, 5, steps=None)]}, SMALL)
    ours, peer = (row["model_seconds_per_minute"] for row in rows)
    frames = 24 * 60 / SMALL.made

    assert views(31, NANO_CLIP) == 6 * 3 / 31  # sixteen key frames
    assert views(1441, NANO_CLIP) == 241 * 3 / 1441
    assert peer == 5 * frames
    assert ours == pytest.approx(views(1441, SMALL) * 5 * frames, rel=1e-3)
    assert rows[0]["seconds_per_minute"] == pytest.approx(1 + 4 * frames + ours, rel=1e-3)
    assert "times_faster" not in summaries({OURS: [told(10, 5)]}, SMALL)[0]


def test_without_the_release_path_peers_are_the_measure() -> None:
    """Without the release's path, NANO is compared with RIFE and SPAN."""
    rows = summaries({PEER: [told(20, 15, steps=None)], OURS: [told(10, 5)]}, SMALL)

    assert [row["times_faster"] for row in rows] == [1.0, 2.0]
    assert rows[1]["model_times_faster"] == 3.0


@pytest.mark.parametrize(
    ("least", "dtype", "is_near"),
    [(44.99, "float32", False), (45.0, "float32", True), (30.0, "float16", True)],
)
def test_frames_far_from_float32_are_an_error(least: float, dtype: str, is_near: bool) -> None:
    """Below 45 dB one line says so; the release's path on a card is no reference for it."""
    near = {"network": OURS, "psnr_to_plain": {"mean": 60.0, "least": least}}

    line = complaint([{"network": PLAIN, "dtype": dtype}, near])

    assert (line is None) == is_near
    assert is_near or "44.99 dB" in str(line)


def test_the_table_shows_both_costs() -> None:
    """Both costs have a total, per frame and per minute, and the PSNR is shown."""
    rows = summaries({PLAIN: [told(310, 300)], OURS: [told(155, 124)]}, SMALL)
    rows[1]["psnr_to_plain"] = {"mean": 65.12, "least": 63.06}
    machine = {"machine": {"cpu": "a processor"}, "device": {"name": "cpu", "threads": 2}}
    [question] = [q for q in QUESTIONS if q.benchmark == "end_to_end"]
    result = {**machine, "preset": "nano", "output": "5 x 128x96", "runs": rows}

    table = report.table(question, [result])

    [line] = [line for line in table.splitlines() if "| ours |" in line]
    assert "| nano, 5 x 128x96 | ours | 4 | 155 (155 to 155) | 124 (124 to 124) |" in line
    assert "| 2, 2.42 | 65.1, 63.1 | 31, 24.8 |" in line
    assert "| load 1.0, denoise 124.0 | 0.00 |" in line


def test_a_run_that_fails_leaves_the_others_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed run is reported last, in the table and by the command's last line."""

    class Runs(end_to_end.Repeated):
        def turn(self) -> float:
            if self.task.name == PLAIN:
                raise WorkerError("OutOfMemoryError: none left", lacks_memory=True)
            self.told.append(told(10, 5, flop=None))
            return 10.0

    monkeypatch.setattr(end_to_end, "Repeated", Runs)
    names = (PLAIN, OURS)
    todo = [Task(name=n, preset="nano", weights=None, device="cpu", frames="") for n in names]

    rows = end_to_end.measure(todo, 2, {})

    assert [row["network"] for row in rows] == [OURS, PLAIN]
    assert rows[0]["seconds"]["median"] == 10
    assert complaint(rows) == "plain: OutOfMemoryError: none left"
    [question] = [q for q in QUESTIONS if q.benchmark == "end_to_end"]
    lines = list(question.rows({"preset": "nano", "output": "5 x 8x8", "runs": rows}))
    assert {len(line) for line in lines} == {len(question.columns)}
    assert "OutOfMemoryError: none left" in lines[1]
