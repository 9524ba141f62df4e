"""Runs that are cut off, anywhere, go on to the same frames."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clips import moving_frames, small_checkpoint, write_frames
from tests.support.processes import DiesAt, run_and_die
from venhancer_rt import journal, progress
from venhancer_rt.cli import main
from venhancer_rt.job import find_jobs, folder_of, read_job

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def job(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The words of a run of two scenes, three windows and four steps, which keeps every state."""
    monkeypatch.setattr(journal, "SHORTEST_WAIT", 0.0)
    monkeypatch.setattr(journal, "SHARE", 1e9)
    frames = moving_frames(13, 48, 32)
    write_frames(tmp_path / "in.mp4", [*frames[:8], *(255 - frame for frame in frames[8:])])

    def words(target: str = "out", *more: str) -> list[str]:
        return [
            "enhance", str(tmp_path / "in.mp4"), "-o", str(tmp_path / target), "--weights",
            str(weights), "--interpolate", "2", "--scale", "1", "--window", "9", "--steps", "4",
            "--eta", "1", "--device", "cpu", "--dtype", "float32", *more,
        ]  # fmt: skip

    return words


def pictures(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.png"))]


def calls_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Count how often a whole run reports progress."""
    seen = []
    with monkeypatch.context() as patch:
        bar = DiesAt(-1)
        patch.setattr(DiesAt, "__call__", lambda self, *_: seen.append(1))
        patch.setattr(progress, "Bar", lambda: bar)
        assert main(words) == 0
    return len(seen)


@pytest.mark.parametrize("points", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_anywhere_it_goes_on_to_the_same_frames(
    job: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: int
) -> None:
    """SIGKILL at random points, reading, denoising or writing; nothing is left in the end."""
    calls = calls_of(job("whole"), monkeypatch)
    expected = pictures(tmp_path / "whole")
    assert len(expected) == 25

    for point in random.Random(0).sample(range(1, calls + 1), points):
        assert run_and_die(job(), point) == signal.SIGKILL
        assert not (tmp_path / "out").exists()
        assert main(job("out", "--resume")) == 0
        assert pictures(tmp_path / "out") == expected
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out", "whole"]
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        (tmp_path / "out").rmdir()


def test_new_frames_by_motion_survive_a_kill(
    job: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key frames are kept, and the frames between are made anew: the same bits."""
    motion = ["--new-frames", "motion"]
    calls = calls_of(job("whole", *motion), monkeypatch)
    expected = pictures(tmp_path / "whole")
    assert len(expected) == 25

    for part in (3, 6, 9):
        target = f"out{part}"
        assert run_and_die(job(target, *motion), calls * part // 10) == signal.SIGKILL
        state = read_job(folder_of(tmp_path / target))
        assert state is None or state.frames <= 13  # key frames
        assert main(job(target, "--resume", *motion)) == 0
        assert pictures(tmp_path / target) == expected


def test_features_that_are_reused_are_part_of_the_state(
    job: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Killed between two steps that share them, a fast run goes on to its own frames."""
    fast = ["--mode", "fast", "--reuse", "4", "--dtype", "bfloat16"]
    assert main(job("whole", *fast)) == 0
    assert run_and_die(job("out", *fast), 9 + 12) == signal.SIGKILL
    assert main(job("out", "--resume", *fast)) == 0

    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")


def test_what_was_done_is_not_done_again(
    job: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Killed at its end, a run goes on there: only the last window is evaluated once more."""
    calls = calls_of(job("whole"), monkeypatch)
    run_and_die(job(), calls - 1)
    state = read_job(folder_of(tmp_path / "out"))
    assert state is not None
    assert state.total == 3 * 4
    assert state.done == 11
    assert state.frames > 0

    with monkeypatch.context() as patch:
        bar = DiesAt(-1)
        seen: list[tuple[str, int]] = []
        patch.setattr(DiesAt, "__call__", lambda self, stage, done, _: seen.append((stage, done)))
        patch.setattr(progress, "Bar", lambda: bar)
        assert main(job("out", "--resume")) == 0

    assert [done for stage, done in seen if stage == "denoise"] == [12]
    assert "goes on after 91 %" in capsys.readouterr().out
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")


def cut_off(job: Callable[..., list[str]]) -> None:
    """In the middle: 9 key frames, then 12 evaluations with a report of frames after each."""
    assert run_and_die(job(), 9 + 12) == signal.SIGKILL


def test_without_resume_a_state_is_told_and_left_alone(
    job: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """The run begins anew, and the state is still there afterwards."""
    cut_off(job)
    before = {p: p.read_bytes() for p in folder_of(tmp_path / "out").iterdir()}

    assert main(job()) == 0

    out = capsys.readouterr().out
    assert "a run that was cut off stands at" in out
    assert "with --resume it goes on" in out
    assert {p: p.read_bytes() for p in folder_of(tmp_path / "out").iterdir()} == before


def test_a_run_that_goes_on_is_arranged_as_it_was_begun(
    job: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """Begun with little memory, it keeps its tiles when there is more, to the same frames."""
    little = job()
    little[little.index("--scale") + 1] = "4"
    little[little.index("--steps") + 1] = "1"
    assert main(["plan", *little[1:2], *little[4:], "--json"]) == 0
    needed = json.loads(capsys.readouterr().out.splitlines()[-1])["memory_bytes"]
    limit = ["--memory", f"{(needed - 1000) / 1e9:.9f}"]
    assert run_and_die([*little, *limit], 20) == signal.SIGKILL
    whole = [str(tmp_path / "whole") if word == str(tmp_path / "out") else word for word in little]
    assert main([*whole, *limit]) == 0

    assert main([*little, "--resume"]) == 0

    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")
    job_tile = capsys.readouterr().out.splitlines()
    assert len({line for line in job_tile if line.startswith("windows")}) == 1


def test_an_interrupted_run_leaves_its_state_and_nothing_else(
    job: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Ctrl-C: no output, no temporary file; the command says how to go on."""
    bar = InterruptsAt(20)
    monkeypatch.setattr(progress, "Bar", lambda: bar)

    assert main(job()) == 130

    assert "--resume goes on after" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.venhancer-job", "in.mp4"]


def test_a_run_that_is_interrupted_early_promises_nothing(
    job: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Ctrl-C while it is planned: the state that stands there is another run's."""
    cut_off(job)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("venhancer_rt.session.choose_backend", interrupt)

    assert main(job("out", "--seed", "1")) == 130

    error = capsys.readouterr().err
    assert "interrupted, nothing was written" in error
    assert "--resume" not in error


def test_a_run_that_fails_early_leaves_nothing(
    job: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a state, what was kept for one goes too."""
    monkeypatch.setattr(journal, "SHORTEST_WAIT", 3600.0)
    bar = InterruptsAt(25)
    monkeypatch.setattr(progress, "Bar", lambda: bar)

    assert main(job()) == 130

    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


class InterruptsAt(DiesAt):
    """Ctrl-C instead."""

    def __call__(self, *_: Any) -> None:
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--seed", "1"], "seed was 0, is 1"),
        (["--steps", "5"], "steps was 4 normal, eta 1, is 5 normal, eta 1"),
        (["--detail", "2"], "detail was 1, is 2"),
        (["--reuse", "2"], "reuse was 1, is 2"),
        (["--dtype", "bfloat16"], "backend was PyTorch"),
        (["--new-frames", "motion"], "frames was 25, 2 for one, is 25, 2 for one, new ones by"),
    ],
)
def test_the_state_of_another_run_is_refused(
    changed: list[str], message: str, job: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """By the name of what differs; the state stays."""
    cut_off(job)

    assert main(job("out", "--resume", *changed)) == 2

    assert message in capsys.readouterr().err
    assert len(find_jobs(tmp_path)) == 1


def test_another_input_is_refused(
    job: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """A clip of the same length and size, with other pictures, is not taken for the first."""
    cut_off(job)
    data = bytearray((tmp_path / "in.mp4").read_bytes())
    data[-40] ^= 1
    (tmp_path / "in.mp4").write_bytes(data)

    assert main(job("out", "--resume")) == 2
    assert "input was" in capsys.readouterr().err


def test_resume_with_nothing_to_resume(job: Callable[..., list[str]], tmp_path: Path) -> None:
    """Is a run like any other."""
    assert main(job("out", "--resume")) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out"]


def test_jobs_lists_and_cleans(
    job: Callable[..., list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """Each job is listed with its progress and size; --clean removes them."""
    cut_off(job)

    assert main(["jobs", str(tmp_path)]) == 0
    assert "MB; venhancer-rt enhance" in (out := capsys.readouterr().out)
    assert out.startswith("out: ")
    assert main(["jobs", str(tmp_path), "--clean"]) == 0
    assert "removed  out" in capsys.readouterr().out
    assert main(["jobs", str(tmp_path)]) == 0
    assert "no jobs" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
