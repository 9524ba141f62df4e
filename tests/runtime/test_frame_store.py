"""Frames kept beside a run come back bit by bit, or a file is named."""

from __future__ import annotations

import errno
import os
import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike

from tests.support.clips import moving_frames
from tests.support.processes import exit_code
from venhancer.pipeline.pixels import Frame
from venhancer_rt import frame_store
from venhancer_rt.frame_store import FrameStore, FrameStoreError, read

SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (17, 31), (33, 16), (64, 97), (255, 641)]


def noise(count: int, height: int, width: int, dtype: DTypeLike = np.uint8) -> list[Frame]:
    rng = np.random.default_rng(height * width)
    end = np.iinfo(dtype).max + 1
    return [rng.integers(0, end, (height, width, 3), dtype=dtype) for _ in range(count)]


def keep(folder: Path, *pieces: list[Frame]) -> tuple[str, ...]:
    """Settle after each list."""
    names: tuple[str, ...] = ()
    kept = FrameStore(folder)
    for frames in pieces:
        for frame in frames:
            kept.add(frame)
        names = kept.settle()
    kept.close()
    return names


def assert_same(found: Iterator[Frame], expected: list[Frame]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_frames_come_back_bit_by_bit(
    height: int, width: int, dtype: DTypeLike, tmp_path: Path
) -> None:
    """Noise, black, white, single points and smooth pictures come back, at any size and depth."""
    largest = np.iinfo(dtype).max
    random = noise(2, height, width, dtype)
    black = np.zeros_like(random[0])
    points = np.where(random[1] > largest - largest // 16, random[0], black)
    smooth = [
        (frame.astype(np.float64) * (largest / 255)).astype(dtype)
        for frame in moving_frames(2, width, height)
    ]
    frames = [*random, black, black + largest, points, *smooth]

    assert_same(read(tmp_path, keep(tmp_path, frames), len(frames)), frames)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_may_be_views(dtype: DTypeLike, tmp_path: Path) -> None:
    """Frames may have any strides, and may be written to after they were handed over."""
    large = noise(1, 40, 60, dtype)[0]
    frames = [large[3:20, 5:40], large[::-2, ::-1], large[..., ::-1]]
    for index, frame in enumerate(frames):
        folder = tmp_path / str(index)
        folder.mkdir()
        expected = frame.copy()
        kept = FrameStore(folder)
        kept.add(frame)
        frame[:] = 0
        assert_same(read(folder, kept.settle(), 1), [expected])
        frame[:] = expected


def test_pieces_of_8_bits_keep_their_format(tmp_path: Path) -> None:
    """The header of a piece of uint8 frames is the one that earlier versions wrote."""
    [name] = keep(tmp_path, noise(1, 3, 5))

    assert (tmp_path / name).read_bytes()[:16] == b"VEFRAME1" + bytes(8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_of_another_type_are_refused(dtype: DTypeLike, tmp_path: Path) -> None:
    """A run holds frames of one type, after it was resumed too; other types are never kept."""
    other = np.uint16 if dtype == np.uint8 else np.uint8
    first = noise(1, 3, 5, dtype)
    kept = FrameStore(tmp_path)
    kept.add(first[0])
    names = kept.settle()
    resumed = FrameStore(tmp_path, names, 1)

    for store in (kept, resumed):
        with pytest.raises(FrameStoreError, match=f"of {np.dtype(dtype)}, got {np.dtype(other)}"):
            store.add(noise(1, 3, 5, other)[0])
    with pytest.raises(FrameStoreError, match="all should be uint8, or all uint16"):
        FrameStore(tmp_path / "new").add(np.zeros((3, 5, 3), np.float32))
    assert_same(read(tmp_path, names, 1), first)


def test_pieces_of_two_types_are_refused(tmp_path: Path) -> None:
    """A piece of 16 bits among those of 8 is named, and so is a header of no kind that we know."""
    frames = noise(2, 3, 5)
    one, two = keep(tmp_path, frames[:1], frames[1:])
    (tmp_path / "deep").mkdir()
    deep = noise(2, 3, 5, np.uint16)
    keep(tmp_path / "deep", deep[:1], deep[1:])
    (tmp_path / two).write_bytes((tmp_path / "deep" / two).read_bytes())

    with pytest.raises(FrameStoreError, match=f"{two} does not begin as .* of uint8"):
        list(read(tmp_path, [one, two], 2))
    (tmp_path / one).write_bytes(b"VEFRAME3" + bytes(8))
    with pytest.raises(FrameStoreError, match=f"{one} does not begin as a piece of frames would"):
        list(read(tmp_path, [one, two], 2))


def test_pieces_go_on_after_settle(tmp_path: Path) -> None:
    """Each is named by its first frame; settling twice makes no empty piece."""
    frames = noise(6, 9, 11)
    names = keep(tmp_path, frames[:1], frames[1:4], [], frames[4:])

    assert names == tuple(f"frames-{first:09d}.store" for first in (0, 1, 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == list(names)
    assert_same(read(tmp_path, names, 6), frames)


def test_nothing_was_kept(tmp_path: Path) -> None:
    """No piece, no frame."""
    assert keep(tmp_path) == ()
    assert list(read(tmp_path, (), 0)) == []


def keep_and_crash(folder: Path, frames: list[Frame]) -> None:
    """Two frames are kept; three more are written when the process ends."""
    names = keep(folder, frames[:2])
    crashed = FrameStore(folder, pieces=names, frames=2)
    for frame in frames[2:5]:
        crashed.add(frame)
    assert crashed._file is not None
    crashed._file.flush()
    os._exit(0)


def test_after_a_crash_what_was_settled_is_there(tmp_path: Path) -> None:
    """The rest is removed, and the run goes on to the same frames."""
    frames = noise(6, 9, 11)
    assert exit_code(keep_and_crash, tmp_path, frames) == 0
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "frames-000000007.store").write_bytes(b"of a state that came to nothing")

    kept = FrameStore(tmp_path, pieces=["frames-000000000.store"], frames=2)
    assert [p.name for p in tmp_path.iterdir()] == ["frames-000000000.store"]
    assert_same(read(tmp_path, kept.settle(), kept.frames), frames[:2])
    for frame in frames[2:]:
        kept.add(frame)
    assert_same(read(tmp_path, kept.settle(), kept.frames), frames)


def test_close_drops_what_is_not_settled(tmp_path: Path) -> None:
    """Frames after the last settled one are dropped; a second `close` does nothing."""
    frames = noise(3, 9, 11)
    kept = FrameStore(tmp_path)
    kept.add(frames[0])
    names = kept.settle()
    kept.add(frames[1])
    kept.close()
    kept.close()

    assert [p.name for p in tmp_path.iterdir()] == list(names)


def test_only_pieces_are_removed(tmp_path: Path) -> None:
    """The state beside them stays."""
    (tmp_path / "job.json").write_text("{}")
    FrameStore(tmp_path)

    assert (tmp_path / "job.json").exists()


def test_a_piece_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    """By its name, and not before the whole frames in front of the cut were given."""
    frames = noise(4, 3, 5)
    names = keep(tmp_path, frames[:1], frames[1:])
    file = tmp_path / names[1]
    whole = file.read_bytes()
    for length in range(0, len(whole), 23):
        file.write_bytes(whole[:length])
        given: list[Frame] = []
        with pytest.raises(FrameStoreError, match=names[1]):
            given.extend(read(tmp_path, names, 4))
        assert_same(iter(given), frames[: len(given)])


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    """In the header, in a record and in a packet: no frame comes back other than it was."""
    frames = noise(2, 3, 5)
    names = keep(tmp_path, frames)
    file = tmp_path / names[0]
    whole = file.read_bytes()
    for position in (*range(24), *range(24, len(whole), 29)):
        changed = bytearray(whole)
        changed[position] ^= 0x81
        file.write_bytes(changed)
        with pytest.raises(FrameStoreError, match=names[0]):
            list(read(tmp_path, names, 2))


def test_pieces_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Missing, renamed, out of order, with fewer or more frames than the state says."""
    frames = noise(5, 3, 5)
    one, two, three = keep(tmp_path, frames[:2], frames[2:3], frames[3:])
    renamed = "frames-000000004.store"
    (tmp_path / renamed).write_bytes((tmp_path / three).read_bytes())
    for names, total, message in [
        ([one, two, three], 6, f"{three} is cut short or changed at frame 5"),
        ([one, two, three], 4, f"{three} holds more than the frames from 3 to 3"),
        ([one, three], 5, f"{one} is cut short or changed at frame 2"),
        ([two, three], 5, "the first 2 frames are missing"),
        ([], 5, "the first 5 frames are missing"),
        ([one, three, two], 5, f"{one} is cut short"),
        ([one, one, two, three], 5, f"{one} holds more"),
        ([one, two, three, renamed], 5, f"{three} holds more"),
        ([one, two, renamed], 5, f"{two} is cut short"),
        ([one, "frames-000000002.mkv"], 5, "frames-000000002.mkv is no name of a piece"),
        ([one, "../frames-000000002.store"], 5, "is no name of a piece"),
    ]:
        with pytest.raises(FrameStoreError, match=message):
            list(read(tmp_path, names, total))
    (tmp_path / two).write_bytes((tmp_path / renamed).read_bytes())
    with pytest.raises(
        FrameStoreError, match=f"{two} does not begin as the frames from 2 on would"
    ):
        list(read(tmp_path, [one, two, three], 5))
    (tmp_path / two).unlink()
    with pytest.raises(FrameStoreError, match=f"{two} cannot be read: No such file"):
        list(read(tmp_path, [one, two, three], 5))


def test_a_full_disk_is_an_oserror(tmp_path: Path) -> None:
    """When adding or settling; `close` then drops the piece in peace."""
    frame = noise(1, 64, 64)[0]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = FrameStore(tmp_path)
    names = keep(tmp_path, [frame])
    kept = FrameStore(tmp_path, names, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # Python ignores its signal
    try:
        with pytest.raises(OSError) as caught:
            for _ in range(3):
                kept.add(frame)
            kept.settle()
        kept.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert caught.value.errno == errno.EFBIG
    assert [p.name for p in tmp_path.iterdir()] == list(names)
    assert_same(read(tmp_path, names, 1), [frame])


def test_a_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    """Told by the first frame."""
    kept = FrameStore(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        kept.add(noise(1, 2, 2)[0])
    kept.close()


def test_an_ffmpeg_without_the_codec_is_an_oserror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the run goes on without keeping anything."""

    class Unknown:
        @staticmethod
        def create(*_: str) -> None:
            raise ValueError("magicyuv")

    monkeypatch.setattr(frame_store, "CodecContext", Unknown)
    with pytest.raises(OSError, match="no MagicYUV"):
        FrameStore(tmp_path).add(noise(1, 2, 2)[0])


def test_frames_are_not_gathered_in_memory(tmp_path: Path) -> None:
    """Writing and reading 40 frames takes no more Python memory than three."""
    frame = noise(1, 240, 320)[0]
    tracemalloc.start()
    try:
        kept = FrameStore(tmp_path)
        for _ in range(40):
            kept.add(frame)
        for found in read(tmp_path, kept.settle(), 40):
            assert np.array_equal(found, frame)
        assert tracemalloc.get_traced_memory()[1] < 4 * frame.nbytes
    finally:
        tracemalloc.stop()
