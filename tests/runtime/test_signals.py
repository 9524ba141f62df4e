"""Signals end a run as Ctrl-C does, and two runs do not write one output; in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.clips import moving_frames, small_checkpoint, write_frames
from venhancer_rt.cli import ended_by_sigterm, main
from venhancer_rt.job import folder_of, read_job

Capture = pytest.CaptureFixture[str]
LIMIT = 120.0  # seconds
HALTED = """
import signal, sys, time
from pathlib import Path
import torch
from venhancer_rt import cli, journal, progress

class Halted(progress.Bar):
    def __call__(self, *told):
        while Path(sys.argv[2]).exists():
            time.sleep(0.05)

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
torch.set_num_threads(int(sys.argv[1]))
journal.SHORTEST_WAIT, journal.SHARE = 0.0, 1e9
progress.Bar = Halted
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def words(weights: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Make the words of a run of two windows and four steps, in the CPU's float32."""
    write_frames(tmp_path / "in.mp4", moving_frames(9, 48, 32))

    def made(target: str, *more: str) -> list[str]:
        return [
            "enhance", str(tmp_path / "in.mp4"), "-o", str(tmp_path / target), "--weights",
            str(weights), "--scale", "1", "--window", "5", "--steps", "4", "--device", "cpu",
            "--dtype", "float32", *more,
        ]  # fmt: skip

    return made


@contextmanager
def running(words: list[str], until: Path, halt: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a process of its own, from when the file `until` is there.

    halt: a file that halts the run while it exists
    """
    import torch

    command = [sys.executable, "-c", HALTED, str(torch.get_num_threads()), str(halt), *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        end = time.monotonic() + LIMIT
        while not until.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def pictures(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_job_to_go_on_from(
    number: int, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The code is 130, the message says how to go on, and the frames are those of a whole run."""
    job = folder_of(tmp_path / "out")
    with running(words("out"), until=job / "job.json", halt=job / "job.json") as process:
        process.send_signal(number)
        error = process.communicate(timeout=LIMIT)[1]

    assert process.returncode == 130
    assert error.startswith("venhancer-rt: interrupted, nothing was written; --resume goes on")
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [job.name, "in.mp4"]
    assert read_job(job) is not None
    assert main(words("out", "--resume")) == 0
    assert main(words("whole")) == 0
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")


def test_a_second_run_is_refused_at_its_beginning(
    words: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """It is one line, whatever the path's spelling; the first run ends well and leaves nothing."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "halt").touch()
    lock = folder_of(tmp_path / "out") / "lock"
    with running(words("out"), until=lock, halt=tmp_path / "halt") as process:
        for target, more in (("out", []), ("out", ["--resume"]), ("sub/../out", [])):
            with monkeypatch.context() as patch:
                patch.setattr("venhancer_rt.session.choose_backend", None)  # no work is begun
                assert main(words(target, *more)) == 2
            told = capsys.readouterr()
            assert told.out == ""
            assert told.err.startswith("venhancer-rt: another process is at work on ")
            assert told.err.count("\n") == 1
        (tmp_path / "halt").unlink()
        assert process.wait(LIMIT) == 0

    assert len(pictures(tmp_path / "out")) == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out", "sub"]


def test_the_lock_of_a_dead_process_does_not_block(
    words: Callable[..., list[str]], tmp_path: Path
) -> None:
    """After a kill, a run without `--resume` writes the output and removes what was left."""
    folder = folder_of(tmp_path / "out")
    folder.mkdir()
    (folder / "lock").touch()

    assert main(words("out")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out"]


def test_sigterm_interrupts_once() -> None:
    """A second one does not cut off the clean-up; afterwards the signal is as it was."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ended_by_sigterm():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_of_the_program_is_kept() -> None:
    """A program that calls `main` and handles SIGTERM itself goes on doing so."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ended_by_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
