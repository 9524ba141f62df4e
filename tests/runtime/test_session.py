"""`Enhancer`: networks that stay loaded, frames in memory, and runs that end when asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.bundles import small_bundle
from tests.support.clips import moving_frames, small_checkpoint, write_clip
from venhancer import Options, api
from venhancer.errors import Cancelled, ShapeError, VideoError
from venhancer.video.probe import probe, read_frames
from venhancer_rt import Enhancer, journal, session
from venhancer_rt.cli import main
from venhancer_rt.job import JobError, folder_of, read_job

FRAMES, WIDTH, HEIGHT = 9, 48, 32


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    weights = small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")
    return Options(weights=weights, scale=2, interpolate=2, device="cpu", dtype="float32", window=5)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every time that PyTorch's networks are loaded."""
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
    """Report progress, and end the run at the call of this number."""
    left = [calls]

    def progress(stage: str, done: int, total: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Cancelled(f"{stage}: {done} of {total}")

    return progress


def test_networks_are_loaded_once(options: Options, tmp_path: Path, loads: list[Any]) -> None:
    """For clips of another size too; the frames are the command's; after `close`, once more."""
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


def test_other_networks_take_their_place(
    options: Options, tmp_path: Path, loads: list[Any]
) -> None:
    """Where options ask for another precision."""
    clip = write_clip(tmp_path / "in.mp4", 3)
    with Enhancer(options) as enhancer:
        enhancer.enhance(clip, tmp_path / "one")
        other = Options(scale=2, device="cpu", dtype="bfloat16", weights=options.weights)
        enhancer.enhance(clip, tmp_path / "two", other)
    assert len(loads) == 2


def test_a_plan_loads_nothing(options: Options, tmp_path: Path, loads: list[Any]) -> None:
    """It tells what the run will be."""
    clip = write_clip(tmp_path / "in.mp4", FRAMES, WIDTH, HEIGHT)

    plan = Enhancer(options).plan(clip)

    assert (plan.geometry.width, len(plan.timeline.shown)) == (2 * WIDTH, 2 * FRAMES - 1)
    assert not loads


def test_frames_in_memory_are_those_of_files(options: Options, tmp_path: Path) -> None:
    """From an iterator, bit for bit; nothing is left on the disk."""
    given = write_clip(tmp_path / "in.mp4", FRAMES, WIDTH, HEIGHT)
    frames = list(read_frames(probe(given)))
    with Enhancer(options) as enhancer:
        report = enhancer.enhance(given, tmp_path / "out")
        made = list(enhancer.frames(iter(frames), fps=24))

    assert np.array_equal(np.stack(made), frames_of(report.output))


def test_who_takes_no_more_frames_ends_the_run(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread ends, and the given frames are removed."""
    monkeypatch.setattr(session, "TemporaryDirectory", lambda: Kept(tmp_path / "given"))
    with Enhancer(options) as enhancer:
        made = enhancer.frames(moving_frames(FRAMES, WIDTH, HEIGHT))
        assert next(made).shape == (2 * HEIGHT, 2 * WIDTH, 3)
        made.close()  # type: ignore[attr-defined]

    assert not (tmp_path / "given").exists()
    assert "handed on" not in {thread.name for thread in threading.enumerate()}


class Kept:
    """A temporary folder at a place that the test knows."""

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
    """None at all, two sizes, another type: before any work."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with Enhancer(options) as enhancer:
        with pytest.raises(VideoError, match="no frames"):
            list(enhancer.frames([]))
        with pytest.raises(ShapeError, match=r"should be \(32, 48, 3\), got \(16, 48, 3\)"):
            list(enhancer.frames([frame, frame[:16]]))
        with pytest.raises(ShapeError, match="should be uint8, got float32"):
            list(enhancer.frames([frame.astype(np.float32)]))


def test_a_cancelled_run_leaves_nothing(options: Options, tmp_path: Path) -> None:
    """Neither to a file nor in memory; the next run is as any other."""
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
    """From its job, to the same frames; without `resume` the job is left alone."""
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
    """With the numbers of both formats; it is not thrown away."""
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


def test_a_bundle_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its networks serve every clip of one shape."""
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
