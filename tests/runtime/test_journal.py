"""The files of a job: whole or not at all, at a bounded cost, and gone at the end of the run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.clips import small_preset, write_clip
from venhancer.files import try_lock
from venhancer.options import Options
from venhancer.pipeline.state import State
from venhancer.planning.plan import Plan, make_plan
from venhancer.video.probe import probe
from venhancer_rt import frame_store, job
from venhancer_rt.cli import main
from venhancer_rt.job import (
    JobError,
    find_jobs,
    find_leftovers,
    folder_of,
    read_job,
    refuse_running,
)
from venhancer_rt.journal import DiskJournal, locked

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "clip").mkdir()
    clip = probe(write_clip(tmp_path / "clip" / "in.mp4", 9))
    return make_plan(clip, small_preset(), Options(window=5, steps=4))


def journal(plan: Plan, tmp_path: Path) -> DiskJournal:
    """Open a journal for which a state is always due."""
    made = DiskJournal(tmp_path / "out.mp4", plan, lambda plan: {"seed": "0"})
    made.resume()
    made.due = 0.0
    return made


def state(window_steps: int) -> State:
    return State(0, window_steps, 0, {"x": torch.full((2, 1, 2, 2), float(window_steps))})


def test_a_state_is_all_there_or_the_older_one_is(plan: Plan, tmp_path: Path) -> None:
    """A write that broke off leaves the state before it."""
    kept = journal(plan, tmp_path)
    kept.keep(state(1))
    (kept.folder / "state.part").write_bytes(b"half")
    (kept.folder / "job.part").write_bytes(b"{")
    assert kept.lock is not None
    kept.lock.close()

    again = journal(plan, tmp_path)
    assert again.job is not None
    loaded = again.load()
    assert loaded is not None
    assert loaded.window_steps == 1
    assert torch.equal(loaded.tensors["x"], state(1).tensors["x"])


def test_a_state_that_was_cut_short_is_named(plan: Plan, tmp_path: Path) -> None:
    """With the command that drops it."""
    kept = journal(plan, tmp_path)
    kept.keep(state(1))
    assert kept.lock is not None
    kept.lock.close()
    file = kept.folder / "state-1.safetensors"
    file.write_bytes(file.read_bytes()[:-8])

    again = journal(plan, tmp_path)
    with pytest.raises(JobError, match=r"cut short or changed: remove"):
        again.load()


@pytest.mark.parametrize("text", ["", "[1, 2]", "null", '{"total": 0}', "{"])
def test_a_damaged_job_is_refused(plan: Plan, tmp_path: Path, text: str) -> None:
    """Its frames are not thrown away in silence."""
    kept = journal(plan, tmp_path)
    kept.keep(state(1))
    assert kept.lock is not None
    kept.lock.close()
    (kept.folder / "job.json").write_text(text)

    with pytest.raises(JobError, match=r"the state of out.mp4 is damaged: remove /"):
        journal(plan, tmp_path)


def test_a_changed_byte_is_found(plan: Plan, tmp_path: Path) -> None:
    """Latents that are not those which were written would give other frames."""
    kept = journal(plan, tmp_path)
    kept.keep(state(1))
    assert kept.lock is not None
    kept.lock.close()
    file = kept.folder / "state-1.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    again = journal(plan, tmp_path)
    with pytest.raises(JobError, match="cut short or changed"):
        again.load()


def test_two_runs_do_not_share_a_state(plan: Plan, tmp_path: Path) -> None:
    """A state that a living run holds is neither resumed nor cleaned."""
    alive = journal(plan, tmp_path)
    alive.keep(state(1))

    with pytest.raises(JobError, match="another process is at work on"):
        journal(plan, tmp_path)
    assert job.clean(tmp_path) == []
    assert alive.folder.is_dir()
    alive.__exit__(None)
    assert not alive.folder.exists()


def test_an_output_is_locked_before_there_is_a_state(plan: Plan, tmp_path: Path) -> None:
    """A second run is refused from the first one's beginning to its end, whatever it leaves."""
    first = journal(plan, tmp_path)
    for refused in (lambda: journal(plan, tmp_path), lambda: locked(first.target).__enter__()):
        with pytest.raises(JobError, match="another process is at work on"):
            refused()
    with pytest.raises(JobError, match="another process is at work on"):
        refuse_running(first.target)
    first.__exit__(None)

    refuse_running(first.target)
    journal(plan, tmp_path).__exit__(None)
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_an_output_is_locked_under_every_spelling(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path and one through a link or `..` are the same output."""
    (tmp_path / "link").symlink_to(tmp_path)
    alive = journal(plan, tmp_path)
    monkeypatch.chdir(tmp_path)

    for spelling in ("out.mp4", "./out.mp4", "clip/../out.mp4", "link/out.mp4"):
        with pytest.raises(JobError, match="another process is at work on"):
            refuse_running(Path(spelling))
    refuse_running(Path("clip/out.mp4"))
    alive.__exit__(None)


def test_a_run_that_leaves_a_job_unchanged_locks_it(plan: Plan, tmp_path: Path) -> None:
    """Then the job is still there; a folder without one is removed."""
    kept = journal(plan, tmp_path)
    kept.keep(state(1))
    kept.__exit__(KeyboardInterrupt)
    before = {path: path.read_bytes() for path in kept.folder.iterdir()}

    with locked(kept.target), pytest.raises(JobError, match="another process is at work on"):
        journal(plan, tmp_path)
    assert {path: path.read_bytes() for path in kept.folder.iterdir()} == before
    (kept.folder / "job.json").unlink()
    with locked(kept.target):
        pass
    assert not kept.folder.exists()


def test_a_look_at_the_lock_stops_no_run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`jobs` holds the lock for a moment; a run that begins just then tries again."""
    folder_of(tmp_path / "out.mp4").mkdir()
    looking = try_lock(folder_of(tmp_path / "out.mp4") / "lock")
    assert looking is not None
    monkeypatch.setattr("venhancer_rt.journal.time.sleep", lambda _: looking.close())

    assert journal(plan, tmp_path).lock is not None


def test_a_lock_that_cannot_be_taken_stops_no_run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the disk refuses it, the run keeps no state, and says so."""

    def refused(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("venhancer_rt.journal.try_lock", refused)
    kept = journal(plan, tmp_path)
    kept.add(np.zeros((4, 6, 3), dtype=np.uint8))

    assert not kept.is_due()
    assert "No locks available" in caplog.text
    kept.__exit__(None)


NAMES = ["o" * 251 + ".mp4", "o" * 234 + ".mp4", "\N{BLACK HEART SUIT}" * 83 + ".mp4", "o" * 255]


@pytest.mark.parametrize("name", NAMES)
def test_a_job_of_a_long_name_is_found(plan: Plan, tmp_path: Path, name: str) -> None:
    """It is shortened to fit, keeps the whole name, and is another for another long name."""
    target = tmp_path / name
    kept = DiskJournal(target, plan, lambda plan: {})
    kept.resume()
    assert find_leftovers(tmp_path) == [name]
    kept.keep(state(1))

    [found] = find_jobs(tmp_path)
    assert found.target == target
    assert found.is_running
    assert folder_of(tmp_path / name.replace(".mp4", "x.mp4")[1:]) != kept.folder
    kept.__exit__(KeyboardInterrupt)
    again = DiskJournal(target, plan, lambda plan: {})
    assert again.resume() is not None
    again.__exit__(KeyboardInterrupt)
    assert job.clean(tmp_path) == [name]


def test_saving_costs_little(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty times as long as a state took to write, and half a minute, pass until the next."""
    clock = [0.0]
    monkeypatch.setattr("venhancer_rt.journal.time.monotonic", lambda: clock[0])
    kept = DiskJournal(tmp_path / "out.mp4", plan, lambda plan: {})
    written: list[int] = []

    def write(at: State) -> None:
        written.append(at.window_steps)
        clock[0] += 3.0

    monkeypatch.setattr(kept, "_write", write)
    for window_step in range(1, 101):
        clock[0] += 1.0
        if kept.is_due():
            kept.keep(state(window_step))

    assert written == [30, 90]


def test_frames_are_kept_until_the_end(plan: Plan, tmp_path: Path) -> None:
    """Those that left before the state come back, those after it do not; then the folder goes."""
    frames = [np.full((4, 6, 3), k, dtype=np.uint8) for k in range(5)]
    first = journal(plan, tmp_path)
    for frame in frames[:3]:
        first.add(frame)
    first.keep(State(0, 4, 3, {}))
    first.add(frames[3])
    first.__exit__(KeyboardInterrupt)

    again = journal(plan, tmp_path)
    assert [int(frame[0, 0, 0]) for frame in again.frames()] == [0, 1, 2]
    for frame in frames[3:]:
        again.add(frame)
    again.keep(State(0, 8, 5, {}))
    assert [int(f[0, 0, 0]) for f in frame_store.read(again.folder, again._pieces(), 5)] == [
        0,
        1,
        2,
        3,
        4,
    ]
    again.__exit__(None)
    assert not again.folder.exists()


def test_a_state_without_all_its_frames_is_not_written(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that could not be kept, after a state was found due: the older state stays."""
    kept = journal(plan, tmp_path)
    frame = np.zeros((4, 6, 3), dtype=np.uint8)
    kept.add(frame)
    kept.keep(State(0, 1, 1, {}))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(frame_store.FrameStore, "add", full)
        kept.add(frame)
    kept.keep(State(0, 2, 2, {}))

    job = read_job(kept.folder)
    assert job is not None
    assert (job.window_steps, job.frames) == (1, 1)


def test_kept_frames_check_disk_for_the_output(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on without them, and what they took is given back."""
    kept = journal(plan, tmp_path)
    kept.add(np.zeros((4, 6, 3), dtype=np.uint8))
    usage = shutil.disk_usage("/")._replace(free=plan.output_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    kept.add(np.zeros((4, 6, 3), dtype=np.uint8))

    assert not kept.is_kept
    assert not list(kept.folder.glob("frames-*"))


def test_what_was_killed_early_is_listed(tmp_path: Path, capsys: Capture) -> None:
    """Its frames take disk, though nothing can go on from it."""
    folder_of(tmp_path / "out.mp4").mkdir()

    assert main(["jobs", str(tmp_path), "--clean"]) == 0

    assert "out.mp4: killed before its first state" in capsys.readouterr().out
    assert not folder_of(tmp_path / "out.mp4").exists()


def test_a_full_disk_does_not_stop_the_run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, and no state is kept from then on."""
    kept = journal(plan, tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("venhancer_rt.journal.save_file", full)
    kept.keep(state(1))
    kept.add(np.zeros((4, 6, 3), dtype=np.uint8))

    assert not kept.is_due()
    assert caplog.text.count("No space left on device") == 1


def test_half_written_files_of_a_killed_run_go(plan: Plan, tmp_path: Path) -> None:
    """When the next run takes the job over."""
    kept = journal(plan, tmp_path)
    kept.keep(state(1))
    assert kept.lock is not None
    kept.lock.close()
    (kept.folder / ".0123456789ab.part").write_bytes(b"half of a state")

    again = journal(plan, tmp_path)

    assert not list(again.folder.glob(".*.part"))
