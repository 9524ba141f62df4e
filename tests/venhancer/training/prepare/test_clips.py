"""Films cut into shards: kept clips, rejected ones with reasons, and killed runs."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.support.clips import write_frames
from tests.support.film_parts import CONFIG, RULES, fill, page, scene, write_films
from venhancer.errors import OptionError
from venhancer.training import __main__ as command
from venhancer.training import config as recipes
from venhancer.training.data.clip_filters import Watch
from venhancer.training.data.dataset import Clips
from venhancer.training.data.sources import open_sources
from venhancer.training.prepare.clips import find_films
from venhancer.training.prepare.cutting import Rules


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films") / "films")


@pytest.fixture(scope="module")
def shards(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the films in one run with one worker."""
    out = tmp_path_factory.mktemp("prepared") / "shards"
    fill(films, out)
    return out


def members(folder: Path) -> dict[str, bytes]:
    """Read the members of all shards in order, by name."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
    return found


def facts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(v) for k, v in members(folder).items() if k.endswith(".json")]


def said(folder: Path) -> dict[str, bytes]:
    """Read each clip's facts and caption; x264's output is not the same bit for bit."""
    return {k: b"" if k.endswith(".mp4") else v for k, v in members(folder).items()}


def decoded(video: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(video), "r") as container:
        return list(container.decode(video=0))


# what is kept


def test_films_are_cut_at_cuts_and_to_length(films: Path, shards: Path) -> None:
    """30 and 40 frames at 24 a second, clips of 0.5 to 1 s: 24, then 24 and 16 frames."""
    told = [f for f in facts(shards) if f["source"].endswith("a.mp4")]

    assert [f["frames"] for f in told] == [24, 24, 16]
    assert [f["start"] for f in told] == pytest.approx([0, 30 / 24, 54 / 24], abs=1e-3)
    assert [f["end"] for f in told] == pytest.approx([1, 54 / 24, 70 / 24], abs=1e-3)
    assert all(f["size"] == [96, 64] and f["fps"] == 24 for f in told)


def test_clips_are_what_the_film_shows(films: Path, shards: Path) -> None:
    """Each clip's frames, after encoding, are those of its scene, from the first on."""
    clip = decoded(members(shards)["00000001.mp4"])
    film = decoded((films / "a.mp4").read_bytes())[30:54]

    for frame, true in zip(clip, film, strict=True):
        one, two = (f.to_ndarray(format="gray").astype(float) for f in (frame, true))
        assert np.sqrt(((one - two) ** 2).mean()) < 2.5


def test_a_sample_has_video_caption_and_facts(shards: Path) -> None:
    """Keys count the clips; the caption is that of the film."""
    found = members(shards)

    kept = json.loads((shards / "report.json").read_text())["kept"]
    assert list(found) == [f"{n:08}.{kind}" for n in range(kept) for kind in ("mp4", "txt", "json")]
    assert [found[f"{n:08}.txt"] for n in range(4)] == [b"blotches"] * 3 + [b""]


def test_shards_are_closed_when_they_are_full(shards: Path) -> None:
    """There are several shards, and no unfinished file is left."""
    assert len(list(shards.glob("*.tar"))) > 1
    assert not list(shards.glob("*.part"))


def test_training_reads_what_was_prepared(shards: Path) -> None:
    """The folder is a source like any other, with captions."""
    batch = next(iter(Clips(open_sources([shards]), CONFIG, needs_text=True)))

    assert batch.target.shape[2:] == (3, 32, 32)
    assert batch.skipped == ()


def test_fast_films_are_thinned_and_have_a_keyframe_a_second(tmp_path: Path) -> None:
    """60 frames a second become 30, by taking every second frame."""
    write_frames(tmp_path / "fast.mp4", scene(1, 150), "60")
    rules = dataclasses.replace(RULES, max_seconds=4.0)

    fill(tmp_path / "fast.mp4", tmp_path / "out", rules=rules)

    [told] = facts(tmp_path / "out")
    assert (told["fps"], told["frames"]) == (30, 75)
    keys = [
        n for n, f in enumerate(decoded(members(tmp_path / "out")["00000000.mp4"])) if f.key_frame
    ]
    assert max(b - a for a, b in pairwise([*keys, 75])) <= 30


def test_a_list_gives_spans_and_captions(films: Path, tmp_path: Path) -> None:
    """Only the seconds in a JSONL line are used, still cut at scene cuts."""
    line = {"video": str(films / "a.mp4"), "caption": "two", "start": 0.5, "end": 2.0}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))

    fill(tmp_path / "list.jsonl", tmp_path / "out")

    assert [(f["start"], f["end"]) for f in facts(tmp_path / "out")] == [(0.5, 1.25), (1.25, 2.0)]
    assert members(tmp_path / "out")["00000000.txt"] == b"two"


# what is left out


def test_every_reason_is_counted_and_listed(films: Path, shards: Path) -> None:
    """report.json has the outcome of each film."""
    report = json.loads((shards / "report.json").read_text())

    assert report["kept"] == 4
    assert report["films"] == 6
    assert report["shards"] == len(list(shards.glob("*.tar")))
    assert report["left_out"] == {
        "static": 1,
        "text": 1,
        "too short": 2,
        "too small": 1,
        "unreadable": 1,
    }
    told = {(Path(item["film"]).name, item["reason"]) for item in report["list"]}
    assert told == {
        ("a.mp4", "too short"),
        ("broken.mp4", "unreadable"),
        ("small.mp4", "too small"),
        ("still.mp4", "static"),
        ("text.mp4", "text"),
    }


def watched(frames: list[Any]) -> str | None:
    watch = Watch(fps=24)
    for frame in frames:
        watch.add(frame)
    return watch.fault()


def test_a_cut_that_was_missed_is_found_in_the_clip() -> None:
    """Frames that change beyond motion are found at any place in the clip."""
    dark = [frame // 4 for frame in scene(1, 12)]

    assert watched(dark + [255 - frame for frame in dark]) == "cut inside"


def test_noise_is_no_motion() -> None:
    """A still with sensor noise counts as static; a slow pan does not."""
    still = scene(1, 1, 320, 180)[0].astype(float)
    rng = np.random.default_rng(0)
    noisy = [np.uint8(np.clip(still + rng.normal(0, 3, still.shape), 0, 255)) for _ in range(24)]

    assert watched(noisy) == "static"
    assert watched(scene(1, 24, 320, 180)) is None


def test_subtitles_are_not_too_much_text() -> None:
    """One line of text is accepted, a page is not; moving text is not detected."""
    frames = scene(1, 36, 320, 180)

    assert watched(page(frames, 1)) is None
    assert watched(page(frames, 9)) == "text"
    rolling = [np.roll(frame, -3 * n, axis=0) for n, frame in enumerate(page(frames, 9))]
    assert watched(rolling) is None


# runs that were killed


class KilledError(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_killed_run_goes_on(films: Path, shards: Path, tmp_path: Path, after: int) -> None:
    """Killed at any point, it ends with the same clips in the same order, and the same report."""
    out, lines = tmp_path / "out", list[str]()

    def show(line: str) -> None:
        lines.append(line)
        if len(lines) == after:
            raise KilledError

    with pytest.raises(KilledError):
        fill(films, out, show=show)
    assert not (out / "report.json").exists()
    with (out / "journal.jsonl").open("a") as journal:
        journal.write('{"shard": "0000')  # the line being written
    fill(films, out)

    assert said(out) == said(shards)
    assert json.loads((out / "report.json").read_text()) == json.loads(
        (shards / "report.json").read_text()
    )


def test_a_finished_folder_takes_more_films(films: Path, shards: Path, tmp_path: Path) -> None:
    """A second run looks only at new films."""
    out, seen = tmp_path / "out", list[str]()
    fill(films / "a.mp4", out)

    report = fill(films, out, show=seen.append)

    assert len(seen) == 5
    assert not any("a.mp4" in line for line in seen)
    assert report["kept"] == 4
    assert said(out) == said(shards)


def test_workers_change_nothing(films: Path, shards: Path, tmp_path: Path) -> None:
    """Two processes give the shards that one gives."""
    fill(films, tmp_path / "out", workers=2)

    assert said(tmp_path / "out") == said(shards)


def test_other_settings_are_refused(films: Path, tmp_path: Path) -> None:
    """A folder keeps its rules, and no run with other rules writes into it."""
    fill(films / "z.mp4", tmp_path / "out")

    with pytest.raises(OptionError, match=r"was prepared with max_seconds=1\.0: name the same"):
        fill(films, tmp_path / "out", rules=dataclasses.replace(RULES, max_seconds=2.0))
    with pytest.raises(OptionError, match="is not empty and holds no shards of ours"):
        fill(films, films)


def test_sources_and_rules_that_cannot_be_are_refused(films: Path, tmp_path: Path) -> None:
    """Each error is one line."""
    (tmp_path / "photo.png").write_bytes(b"")

    for path, message in (
        (tmp_path / "missing", "there is no"),
        (films / "a.txt", "neither a video nor a folder"),
        (tmp_path, "no video among"),
    ):
        with pytest.raises(OptionError, match=message):
            find_films([path])
    with pytest.raises(OptionError, match="clips of 3 to 2 s"):
        Rules.of("released", CONFIG, min_seconds=3.0, max_seconds=2.0)


# the command


def test_the_command_prepares(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints a line for each film and a summary, exit code 0; an error is a line and code 2."""
    monkeypatch.setattr(recipes, "TrainingConfig", lambda: CONFIG)
    out = str(tmp_path / "out")
    call = ["prepare", str(films / "a.mp4"), "-o", out, "--max-seconds", "1", "--workers", "1"]

    assert command.main([*call, "--min-seconds", "0.5"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "3 clips of 3 s in 1 shards, from 1 films; left out: 2 too short"
    assert command.main([*call, "--min-seconds", "0.6"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "was prepared with min_seconds=0.5" in error
    assert command.main([*call, "--shard-size", "0"]) == 2
    assert "--shard-size must be at least 1" in capsys.readouterr().err
