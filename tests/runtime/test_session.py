"""`Enhancer`: networks that stay loaded, frames in memory, and runs that end on request."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.bundles import small_bundle
from tests.support.clips import moving_frames, small_checkpoint, small_preset, write_clip
from venhancer import Options, api
from venhancer.errors import Cancelled, OptionError, ShapeError, VideoError
from venhancer.planning import fitting
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.weights.checkpoint import read_tensors, save_tensors
from venhancer_rt import Enhancer, enhance, journal, session
from venhancer_rt.cli import main
from venhancer_rt.job import JobError, find_leftovers, find_unreadable, folder_of, read_job
from venhancer_rt.session import BusyError

FRAMES, WIDTH, HEIGHT = 9, 48, 32


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    weights = small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")
    return Options(weights=weights, scale=2, interpolate=2, device="cpu", dtype="float32", window=5)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record every load of PyTorch's networks."""
    found: list[Any] = []
    load = api.load_networks

    def counted(*given: Any) -> Any:
        found.append(given)
        return load(*given)

    monkeypatch.setattr(api, "load_networks", counted)
    return found


def frames_of(output: Path | None) -> NDArray[np.uint8]:
    """All frames of an output."""
    assert output is not None
    return np.stack(list(read_frames(probe(output))))


def cancel_at(calls: int) -> Callable[..., None]:
    """Make a progress function that ends the run at the call of this number."""
    left = [calls]

    def progress(stage: str, done: int, total: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Cancelled(f"{stage}: {done} of {total}")

    return progress


def test_networks_are_loaded_once(options: Options, tmp_path: Path, loads: list[Any]) -> None:
    """Clips of other sizes need no reload.

    The frames are the command's; a closed session reloads.
    """
    first = write_clip(tmp_path / "first.mp4", FRAMES)
    second = write_clip(tmp_path / "second.mp4", 5, 64, 48)
    words = ["--weights", str(options.weights), "--scale", "2", "--interpolate", "2"]
    words += ["--device", "cpu", "--dtype", "float32", "--window", "5"]
    for clip in (first, second):
        assert main(["enhance", str(clip), "-o", str(clip.with_suffix("")), *words]) == 0
    loads.clear()

    with Enhancer(options) as enhancer:
        for clip in (first, second):
            report = enhancer.enhance(clip, tmp_path / f"{clip.stem}_again")
            expected = frames_of(clip.with_suffix(""))
            assert np.array_equal(frames_of(report.output), expected)
        assert len(loads) == 1
        enhancer.close()
        enhancer.enhance(first, tmp_path / "third")
    assert len(loads) == 2


def test_one_clip_needs_one_call(options: Options, tmp_path: Path, loads: list[Any]) -> None:
    """Resuming works there too; the networks are freed at the end."""
    clip = write_clip(tmp_path / "in.mp4", 3)

    report = enhance(clip, tmp_path / "out", options, resume=True)

    assert len(frames_of(report.output)) == 5
    assert len(loads) == 1


def test_other_networks_take_their_place(
    options: Options, tmp_path: Path, loads: list[Any]
) -> None:
    """Options with another precision load other networks."""
    clip = write_clip(tmp_path / "in.mp4", 3)
    with Enhancer(options) as enhancer:
        enhancer.enhance(clip, tmp_path / "one")
        other = Options(scale=2, device="cpu", dtype="bfloat16", weights=options.weights)
        enhancer.enhance(clip, tmp_path / "two", other)
    assert len(loads) == 2


def test_a_changed_checkpoint_is_loaded_again(
    options: Options, tmp_path: Path, loads: list[Any]
) -> None:
    """The frames and the identity of a job are those of the file as it is now."""
    weights = tmp_path / "own.safetensors"
    assert options.weights is not None
    weights.write_bytes(options.weights.read_bytes())
    chosen = dataclasses.replace(options, weights=weights)
    clip = write_clip(tmp_path / "in.mp4", 3)
    with Enhancer(chosen) as enhancer:
        before = frames_of(enhancer.enhance(clip, tmp_path / "one").output)
        tensors = {name: x * 2 for name, x in read_tensors(weights).items()}
        save_tensors(weights, tensors, small_preset())
        after = frames_of(enhancer.enhance(clip, tmp_path / "two").output)

    assert len(loads) == 2
    assert not np.array_equal(before, after)


def test_the_second_run_is_planned_as_the_first(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that loaded networks hold makes no plan smaller."""
    free = [10**10]
    monkeypatch.setattr(fitting, "free_memory", lambda device: free[0])
    clip = write_clip(tmp_path / "in.mp4", FRAMES, 640, 480)
    chosen = dataclasses.replace(options, window=None, scale=4)
    enhancer = Enhancer(chosen)
    first = enhancer.plan(clip)
    free[0] = 10**8

    assert enhancer.plan(clip) == first
    assert Enhancer(chosen).plan(clip).arrangement != first.arrangement
    limited = dataclasses.replace(chosen, memory=5.5)
    assert enhancer.plan(clip, limited).arrangement != first.arrangement


def test_two_runs_at_once_are_refused(options: Options, tmp_path: Path) -> None:
    """They would share tensors; after the first one there may be another."""
    clip = write_clip(tmp_path / "in.mp4", 5, WIDTH, HEIGHT)
    with Enhancer(options) as enhancer:
        made = enhancer.frames(moving_frames(FRAMES, WIDTH, HEIGHT))
        next(made)
        with pytest.raises(BusyError, match="has not ended: wait for it"):
            enhancer.enhance(clip, tmp_path / "out")
        made.close()  # type: ignore[attr-defined]
        assert enhancer.enhance(clip, tmp_path / "out").output == tmp_path / "out"


def test_an_iterator_that_is_closed_ends_the_work(options: Options) -> None:
    """At the next evaluation, not at the next frame."""
    told: list[str] = []
    chosen = dataclasses.replace(options, steps=12)
    with Enhancer(chosen) as enhancer:
        made = enhancer.frames(
            moving_frames(21, WIDTH, HEIGHT), progress=lambda stage, *_: told.append(stage)
        )
        next(made)
        before = len(told)
        made.close()  # type: ignore[attr-defined]

    assert len(told) - before <= 5


def test_options_of_files_are_refused_for_frames(options: Options, tmp_path: Path) -> None:
    """At once, before any frame is taken; a decimal rate means the exact one."""
    chosen = dataclasses.replace(options, compare=tmp_path / "a.png")
    with pytest.raises(OptionError, match="compare: frames in memory are written nowhere"):
        Enhancer(chosen).frames([])
    with Enhancer(options) as enhancer:
        made = list(enhancer.frames(moving_frames(2, WIDTH, HEIGHT), fps=29.97))
    assert len(made) == 3


def test_a_plan_loads_nothing(options: Options, tmp_path: Path, loads: list[Any]) -> None:
    """The plan describes the run without loading networks."""
    clip = write_clip(tmp_path / "in.mp4", FRAMES, WIDTH, HEIGHT)

    plan = Enhancer(options).plan(clip)

    assert (plan.geometry.width, len(plan.timeline.shown)) == (2 * WIDTH, 2 * FRAMES - 1)
    assert not loads


def test_frames_in_memory_are_those_of_files(options: Options, tmp_path: Path) -> None:
    """Frames from an iterator give equal bits; no file is left on the disk."""
    given = write_clip(tmp_path / "in.mp4", FRAMES, WIDTH, HEIGHT)
    frames = list(read_frames(probe(given)))
    with Enhancer(options) as enhancer:
        report = enhancer.enhance(given, tmp_path / "out")
        made = list(enhancer.frames(iter(frames), fps=24))

    assert np.array_equal(np.stack(made), frames_of(report.output))


def test_who_takes_no_more_frames_ends_the_run(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the user stops iterating, the thread ends and the temporary frames are removed."""
    monkeypatch.setattr(session, "TemporaryDirectory", lambda: Kept(tmp_path / "given"))
    with Enhancer(options) as enhancer:
        made = enhancer.frames(moving_frames(FRAMES, WIDTH, HEIGHT))
        assert next(made).shape == (2 * HEIGHT, 2 * WIDTH, 3)
        made.close()  # type: ignore[attr-defined]

    assert not (tmp_path / "given").exists()
    assert "handed on" not in {thread.name for thread in threading.enumerate()}


class Kept:
    """A temporary folder at a path that the test knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> str:
        self.folder.mkdir()
        return str(self.folder)

    def __exit__(self, *_: object) -> None:
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self.folder.rmdir()


def test_bad_frames_are_told_in_one_line(options: Options) -> None:
    """No frame, two sizes and another type are each refused before any work."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with Enhancer(options) as enhancer:
        with pytest.raises(VideoError, match="no frames"):
            list(enhancer.frames([]))
        with pytest.raises(ShapeError, match=r"should be \(32, 48, 3\), got \(16, 48, 3\)"):
            list(enhancer.frames([frame, frame[:16]]))
        with pytest.raises(ShapeError, match="should be uint8 or uint16, got float32"):
            list(enhancer.frames([frame.astype(np.float32)]))


def test_a_cancelled_run_leaves_nothing(options: Options, tmp_path: Path) -> None:
    """A cancelled run to a file or in memory leaves no file; the next run works normally."""
    clip = write_clip(tmp_path / "in.mp4", FRAMES, WIDTH, HEIGHT)
    with Enhancer(options) as enhancer:
        with pytest.raises(Cancelled, match="of"):
            enhancer.enhance(clip, tmp_path / "out.mp4", progress=cancel_at(3))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]
        with pytest.raises(Cancelled):
            list(enhancer.frames(read_frames(probe(clip)), progress=cancel_at(3)))
        assert enhancer.enhance(clip, tmp_path / "out.mp4").output == tmp_path / "out.mp4"


def test_a_cancelled_run_can_go_on(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues from its job to the same frames; without `resume` the job is left unchanged."""
    monkeypatch.setattr(journal, "SHORTEST_WAIT", 0.0)
    monkeypatch.setattr(journal, "SHARE", 1e9)
    clip, target = write_clip(tmp_path / "in.mp4", 15, WIDTH, HEIGHT), tmp_path / "out"
    with Enhancer(options) as enhancer:
        whole = frames_of(enhancer.enhance(clip, tmp_path / "whole").output)
        with pytest.raises(Cancelled):
            enhancer.enhance(clip, target, progress=cancel_at(20))
        assert read_job(folder_of(target)) is not None
        run = enhancer.prepare(clip, target, resume=True)
        assert run.keeps_job and run.job is not None
        assert not enhancer.prepare(clip, target).keeps_job
        resumed = frames_of(enhancer.enhance(clip, target, resume=True).output)

    assert np.array_equal(resumed, whole)
    assert read_job(folder_of(target)) is None


def test_a_job_of_another_version_is_refused_by_name(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has both format numbers; the job is not deleted."""
    monkeypatch.setattr(journal, "SHORTEST_WAIT", 0.0)
    clip, target = write_clip(tmp_path / "in.mp4", 15, WIDTH, HEIGHT), tmp_path / "out"
    with Enhancer(options) as enhancer:
        with pytest.raises(Cancelled):
            enhancer.enhance(clip, target, progress=cancel_at(20))
        file = folder_of(target) / "job.json"
        file.write_text(file.read_text().replace('"format": 2,', ""))
        with pytest.raises(JobError, match=r"another version \(format 1, this one reads 2\)"):
            enhancer.enhance(clip, target, resume=True)
    assert file.exists()
    assert (find_unreadable(tmp_path), find_leftovers(tmp_path)) == (["out"], [])


def test_a_bundle_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle's networks serve every clip of one shape."""
    (tmp_path / "made").mkdir()
    built = small_bundle(tmp_path / "made", sizes=[(96, 64)], windows=[9])
    opened: list[Any] = []
    from venhancer_rt import backends

    load = backends.open_bundle_networks
    monkeypatch.setattr(
        backends, "open_bundle_networks", lambda *given: opened.append(given) or load(*given)
    )
    clip = write_clip(tmp_path / "in.mp4", 5, WIDTH, HEIGHT)
    with Enhancer(Options(scale=2), bundle=built.folder) as enhancer:
        one = frames_of(enhancer.enhance(clip, tmp_path / "one").output)
        two = np.stack(list(enhancer.frames(read_frames(probe(clip)))))

    assert len(opened) == 1
    assert np.array_equal(one, two)
