"""Sources of clips: folders, lists and shards, and which frames of a video are taken."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import training_parts
from tests.support.clips import moving_frames, write_clip, write_frames
from tests.support.training_parts import write_media
from venhancer.errors import OptionError
from venhancer.training.data import media as media_files
from venhancer.training.data.dataset import Clips
from venhancer.training.data.media import WHOLE, Extent, UnusableError, photo_clips, video_clips
from venhancer.training.data.sources import Source, open_sources

SMALL = dataclasses.replace(training_parts.SMALL, clips_a_decode=1, micro_batch=1)
MANY = dataclasses.replace(SMALL, clips_a_decode=24)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return write_media(tmp_path / "media")


def write_shard(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def shard_of(media: Path, path: Path, count: int = 3) -> Path:
    video = (media / "a.mp4").read_bytes()
    members = {}
    for n in range(count):
        members |= {f"{n:04}.mp4": video, f"{n:04}.txt": f"clip {n}".encode()}
        members |= {f"{n:04}.json": b"{}"}
    return write_shard(path, members)


def captions(source: Source) -> list[str]:
    return [sample.read_caption() for sample in source.samples]


def counted_frames(path: Path, count: int, fps: str = "24") -> Path:
    """Write a video of 32 x 32 whose rows encode each frame's number, four to a bit."""
    bits = (np.arange(count)[:, None] >> np.arange(8)) & 1
    rows = (110 + 24 * bits).astype(np.uint8).repeat(4, axis=1)
    return write_frames(path, [np.tile(row[:, None, None], (1, 32, 3)) for row in rows], fps)


def numbers(clip: Tensor) -> list[int]:
    """Decode the numbers of the frames of `counted_frames` in a clip."""
    bits = clip.float().mean(dim=(1, 3)).unflatten(1, (8, 4)).mean(dim=2) > 122
    return (bits.int() * 2 ** torch.arange(8)).sum(dim=1).tolist()


# what the data are


def test_a_folder_gives_videos_and_photos_with_captions(media: Path) -> None:
    """A text file of the same name beside a video is its caption."""
    source = open_sources([media])

    found = {Path(s.name).name: (s.kind, s.read_caption()) for s in source.samples}
    assert found == {
        "a.mp4": ("video", "waves that move to the right"),
        "b.mkv": ("video", ""),
        "photo.png": ("photo", ""),
    }


def test_photos_come_as_often_as_the_config_says(media: Path) -> None:
    """Photos are a quarter of the draws beside videos, and all of them otherwise."""
    rng = np.random.default_rng(0)
    config = dataclasses.replace(SMALL, photo_share=0.25)
    source = open_sources([media])

    kinds = [source.pick(config, rng).kind for _ in range(4000)]

    assert abs(kinds.count("photo") / len(kinds) - 0.25) < 0.03
    photos = Source([s for s in source.samples if s.kind == "photo"])
    assert photos.pick(config, rng).kind == "photo"


def test_a_list_names_videos_captions_and_spans(media: Path) -> None:
    """Paths are relative to the list; the frames lie between start and end."""
    counted_frames(media / "count.mp4", 100)
    lines = [
        {"video": "count.mp4", "caption": "brighter", "start": 1.0, "end": 2.0},
        {"video": str(media / "b.mkv")},
    ]
    path = media / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")

    source = open_sources([path])

    assert captions(source) == ["brighter", ""]
    rng = np.random.default_rng(0)
    takes = [take for _ in range(30) for take in source.samples[0].takes(SMALL, rng)]
    seen = {n for take in takes for n in numbers(take.target)}
    assert seen <= set(range(24, 48))
    assert len(seen) > 15
    assert {take.caption for take in takes} == {"brighter"}


@pytest.mark.parametrize(
    "line", ['{"video": ', '{"caption": "a cat"}', '["a.mp4"]', '{"video": "a", "start": "soon"}']
)
def test_a_line_that_is_none_is_named(media: Path, line: str) -> None:
    """The error has the number of the line, and the expected form."""
    path = media / "list.jsonl"
    path.write_text('{"video": "a.mp4"}\n' + line)

    with pytest.raises(OptionError, match=r"list\.jsonl, line 2: expected \{\"video\": PATH"):
        open_sources([path])


def test_shards_give_their_samples(media: Path, tmp_path: Path) -> None:
    """One shard or a folder of them gives the batches that the files would give."""
    (tmp_path / "shards").mkdir()
    for n in range(2):
        shard_of(media, tmp_path / "shards" / f"{n:06}.tar")

    source = open_sources([tmp_path / "shards"])

    assert captions(source) == 2 * ["clip 0", "clip 1", "clip 2"]
    assert len(open_sources([tmp_path / "shards" / "000001.tar"]).samples) == 3
    batch = next(iter(Clips(source, SMALL)))
    assert Path(batch.names[0]).parent.name in ("000000.tar", "000001.tar")
    rngs = [np.random.default_rng(1) for _ in range(2)]
    direct = next(video_clips(Extent(media / "a.mp4"), WHOLE, SMALL, rngs[0]))
    assert next(source.samples[0].takes(SMALL, rngs[1])).target.equal(direct)


def test_keys_end_at_the_first_dot(media: Path, tmp_path: Path) -> None:
    """Folders belong to the key, dots to the extension (as in WebDataset); others are skipped."""
    video = (media / "a.mp4").read_bytes()
    members = {"x/a.MP4": video, "x/a.txt": b"x", "y/a.webm": video, "a.b.mp4": video, "n.txt": b""}

    source = open_sources([write_shard(tmp_path / "s.tar", members)])

    assert [(s.name, s.read_caption()) for s in source.samples] == [
        (f"{tmp_path}/s.tar/x/a", "x"),
        (f"{tmp_path}/s.tar/y/a", ""),
    ]


@pytest.mark.parametrize("left", [0.3, 0.5, 0.7])
def test_a_shard_cut_short_is_refused_by_name(media: Path, tmp_path: Path, left: float) -> None:
    """It is refused when opened, for every cut, with the number of complete samples."""
    shard = shard_of(media, tmp_path / "s.tar", count=5)
    content = shard.read_bytes()
    cut = int(left * len(content))
    with tarfile.open(shard) as archive:
        ends = [m.offset_data + m.size for m in archive.getmembers() if m.name.endswith(".json")]
    shard.write_bytes(content[:cut])
    whole = sum(end <= cut for end in ends)

    with pytest.raises(OptionError, match=r"s\.tar is cut short or no tar: (\d) whole") as refusal:
        open_sources([shard])

    assert f"{whole} whole" in str(refusal.value) or f"{whole - 1} whole" in str(refusal.value)


def test_a_shard_cut_between_members_is_refused(media: Path, tmp_path: Path) -> None:
    """Every member is complete, yet the end of the archive is missing."""
    shard = shard_of(media, tmp_path / "s.tar")
    with tarfile.open(shard) as archive:
        end = archive.getmembers()[3].offset
    shard.write_bytes(shard.read_bytes()[:end])

    with pytest.raises(OptionError, match="cut short"):
        open_sources([shard])


def test_data_that_are_none_are_refused(media: Path, tmp_path: Path) -> None:
    """Missing, empty and unknown data are each refused in one line."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.jsonl").write_text("\n")
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1000)
    write_shard(tmp_path / "texts.tar", {"0.txt": b"a cat"})

    for path, message in (
        (tmp_path / "missing", "there is no"),
        (tmp_path / "empty", "no video and no photo below"),
        (tmp_path / "none.jsonl", "names no clip"),
        (tmp_path / "junk.tar", "no tar"),
        (tmp_path / "texts.tar", "no sample with a video or latents"),
        (media / "a.mp4", "neither a folder nor a .jsonl list nor a .tar shard"),
    ):
        with pytest.raises(OptionError, match=message):
            open_sources([path])


# which frames are taken


@pytest.mark.parametrize(("fps", "step"), [("24", 1), ("30", 1), ("48", 2), ("60", 2), ("120", 5)])
def test_fast_videos_are_thinned_by_whole_frames(tmp_path: Path, fps: str, step: int) -> None:
    """About 24 frames a second remain, from anywhere in the video."""
    video = Extent(counted_frames(tmp_path / "a.mp4", 100, fps))
    rng = np.random.default_rng(0)

    starts = set()
    for _ in range(12):
        found = sorted(numbers(next(video_clips(video, WHOLE, SMALL, rng))))
        assert {b - a for a, b in itertools.pairwise(found)} == {step}
        starts.add(found[0])

    assert len(starts) > 6
    assert max(starts) > 50


def test_a_clip_as_long_as_its_video_is_taken(tmp_path: Path) -> None:
    """A video with exactly the frames needed is taken from its first frame."""
    video = Extent(counted_frames(tmp_path / "a.mp4", SMALL.longest))

    for seed in range(8):
        [clip] = video_clips(video, WHOLE, SMALL, np.random.default_rng(seed))
        assert sorted(numbers(clip)) == list(range(SMALL.longest))


def test_one_clip_a_decode_is_the_centre(tmp_path: Path) -> None:
    """The frame is shrunk as far as the crop allows, then cropped in the middle (paper, 4.1)."""
    frame = np.zeros((64, 160, 3), np.uint8)
    frame[:, 48:112] = 200  # the middle, 64 x 64
    video = write_frames(tmp_path / "a.mp4", [frame] * 6)

    [clip] = video_clips(Extent(video), WHOLE, SMALL, np.random.default_rng(0))

    assert clip.shape == (5, 3, 32, 32)
    assert (clip.float() - 200).abs().mean() < 4


def test_many_clips_a_decode_are_anywhere(tmp_path: Path) -> None:
    """One decode gives crops at random places and times."""
    video = write_clip(tmp_path / "a.mp4", 24, 96, 64)

    clips = list(video_clips(Extent(video), WHOLE, MANY, np.random.default_rng(0)))

    assert len(clips) == 24
    assert all(clip.shape == (5, 3, 32, 32) for clip in clips)
    assert len({clip.float().mean().item() for clip in clips}) > 12


def test_cuts_are_left_out(tmp_path: Path) -> None:
    """No clip crosses a cut, and both scenes give clips."""
    scene = moving_frames(10, 48, 48)
    frames = [frame // 4 for frame in scene] + [255 - frame // 4 for frame in scene]
    video = write_frames(tmp_path / "cut.mp4", frames)
    rng = np.random.default_rng(0)

    clips = [c for _ in range(3) for c in video_clips(Extent(video), WHOLE, MANY, rng)]

    assert 0 < len(clips) < 3 * MANY.clips_a_decode
    levels = [clip.float().mean(dim=(1, 2, 3)) for clip in clips]
    assert all(level.max() - level.min() < 20 for level in levels)
    assert {bool(level.mean() > 127) for level in levels} == {False, True}


def test_photos_become_moving_clips(media: Path) -> None:
    """A virtual camera moves over a photo: all frames differ, without a cut."""
    clips = list(photo_clips(Extent(media / "photo.png"), MANY, np.random.default_rng(0)))

    assert len(clips) == MANY.clips_a_decode
    for clip in clips:
        assert clip.shape == (SMALL.frames, 3, 32, 32)
        assert all(not a.equal(b) for a, b in itertools.pairwise(clip))
        assert not media_files.has_cut(clip)


def test_photos_that_cannot_be_used_say_why(media: Path, tmp_path: Path) -> None:
    """A file that is no photo, and one too small to move over, each have a reason."""
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    large = dataclasses.replace(SMALL, crop=(64, 48))

    with pytest.raises(UnusableError, match="cannot be read"):
        next(photo_clips(Extent(tmp_path / "broken.jpg"), SMALL, np.random.default_rng(0)))
    with pytest.raises(UnusableError, match="too small: 160x144 where a photo takes 256x192"):
        next(photo_clips(Extent(media / "photo.png"), large, np.random.default_rng(0)))
