"""Unreadable inputs and impossible outputs are refused in one line, and no file is left."""

import errno
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.video_parts import (
    FPS,
    SIZE,
    make_clip,
    picture,
    write,
    write_sound,
)
from venhancer.errors import OptionError, OutputError, ShapeError, VideoError
from venhancer.video import writer
from venhancer.video.clip import Clip
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.target import check_target
from venhancer.video.writer import open_writer

# --- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_cut_short_gives_what_it_has(tmp_path, suffix):
    """The probe reports the available frames, and exactly those can be read."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(48)]
    whole = write(tmp_path / f"whole{suffix}", noise)
    file = tmp_path / f"cut{suffix}"
    if suffix == ".mp4":
        remux_with_index_first(whole.path, file)
    else:
        shutil.copy(whole.path, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])

    clip = probe(file)

    assert 10 < clip.frames < 48
    assert clip.damage is not None
    assert f"{clip.frames} frames could be read" in clip.damage
    assert whole.damage is None
    assert len(list(read_frames(clip))) == clip.frames


def remux_with_index_first(source, target):
    options = {"movflags": "faststart"}
    with av.open(str(source)) as whole, av.open(str(target), "w", options=options) as out:
        stream = out.add_stream_from_template(whole.streams.video[0], opaque=True)
        for packet in whole.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    """A missing file, text, noise, a cut index, sound only and an empty folder are each refused."""
    (tmp_path / "text.txt").write_text("hello\n" * 200)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "noise1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    make_clip(tmp_path / "whole.mp4")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:-300])
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        write_sound(out, out.add_stream("aac", rate=16000), 0.5)
    files = ["text.txt", "noise.mp4", "noise1.png", "empty.mp4", "cut.mp4", "sound.mp4"]

    for name in ["missing.mp4", "folder", *files]:
        with pytest.raises(VideoError, match=name) as caught:
            probe(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_video_without_frames_is_refused(tmp_path):
    """A video stream without frames is not enough."""
    with av.open(str(tmp_path / "none.mkv"), "w") as out:
        out.add_stream("libx264", rate=24, **SIZE).pix_fmt = "yuv420p"
        out.start_encoding()

    with pytest.raises(VideoError, match=r"no frame|no video|cannot be read"):
        probe(tmp_path / "none.mkv")


def test_a_file_that_changed_is_noticed(tmp_path):
    """Fewer frames than at the probe is an error, not a short video."""
    clip = write(tmp_path / "clip.mp4", [picture()] * 8)
    write(clip.path, [picture()] * 4, overwrite=True)

    with pytest.raises(VideoError, match="gave 4 frames where it had 8"):
        list(read_frames(clip))


# --- what cannot be written ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_an_existing_output_is_kept(tmp_path, name):
    """It is refused before any work, and replaced only if that is allowed."""
    write(tmp_path / name, [picture()] * 2)

    for attempt in (
        lambda: check_target(tmp_path / name, False),
        lambda: open_again(tmp_path / name),
    ):
        with pytest.raises(OutputError, match="exists"):
            attempt()

    assert write(tmp_path / name, [picture()] * 5, overwrite=True).frames == 5
    assert [p.name for p in tmp_path.iterdir()] == [name]


def open_again(path):
    return open_writer(path, **SIZE, fps=FPS, source=None)


def test_a_folder_with_other_things_is_never_replaced(tmp_path):
    """Overwriting is for frames we could have written, not for a user's documents."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()

    with pytest.raises(OutputError, match="no folder of PNG"):
        check_target(tmp_path / "out", True)


@pytest.mark.parametrize("name", ["out.xyz", "nowhere/out.mp4", "out.png"])
def test_a_bad_place_is_refused(tmp_path, name):
    """Unknown suffixes and missing folders are named."""
    with pytest.raises(OutputError, match=r"\.mp4, \.mkv|nowhere is no folder"):
        open_again(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["out.mp4", "frames"])
def test_a_failure_leaves_nothing_behind(tmp_path, name, stop):
    """For any early end, no file and no folder is left."""
    with pytest.raises(stop), open_again(tmp_path / name) as writer:
        for n in range(60):
            writer.write(picture(), Fraction(n, 24))
        assert len(list(tmp_path.iterdir())) == 1
        raise stop

    assert not list(tmp_path.iterdir())


def test_no_frame_no_output(tmp_path):
    """An empty output is an error."""
    with pytest.raises(OutputError, match="no frame"), open_again(tmp_path / "out.mp4"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_so(tmp_path, monkeypatch):
    """The error is one clear line, and no file is left."""
    link = tmp_path / ".full.mkv"
    link.symlink_to("/dev/full")
    monkeypatch.setattr(writer, "hidden_name", lambda path: link)

    with pytest.raises(OutputError, match="no space left"):
        write(tmp_path / "out.mkv", [picture()] * 3)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_stops_a_folder(tmp_path, monkeypatch):
    """The same for PNG files."""

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)

    with pytest.raises(OutputError, match="no space left"):
        write(tmp_path / "frames", [picture()])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "libfoo"}, "libfoo"),
        ({"codec": "aac"}, "aac"),
        ({"crf": -1}, "crf .* -1"),
        ({"codec": "libsvtav1", "width": 65}, "libsvtav1|no encoder"),
    ],
)
def test_options_that_cannot_be_carried_out(tmp_path, options, message):
    """One line names the problem, and nothing is written."""
    with pytest.raises(OptionError, match=message):
        open_writer(tmp_path / "out.mp4", **{**SIZE, **options}, fps=FPS, source=None)
    assert not list(tmp_path.iterdir())


def test_other_encoders_can_be_named(tmp_path):
    """H.265 and MPEG-4 work as H.264 does."""
    for codec, found in {"libx265": "hevc", "mpeg4": "mpeg4"}.items():
        out = write(tmp_path / f"{codec}.mp4", [picture()] * 3, codec=codec)
        assert (out.codec, out.frames) == (found, 3)


def test_frames_of_another_size_or_out_of_order_are_refused(tmp_path):
    """The caller's mistakes do not become a broken file."""
    with pytest.raises(ShapeError, match="48, 64, 3"):
        write_two(tmp_path / "out.mp4", picture(0, 32, 32), Fraction(1))
    with pytest.raises(ValueError, match="increase"):
        write_two(tmp_path / "out.mp4", picture(), Fraction(0))


def write_two(path, second, time):
    with open_again(path) as writer:
        writer.write(picture(), Fraction(0))
        writer.write(second, time)


def test_clip_counts_frames_and_seconds():
    """Derived numbers come from the times."""
    times = (Fraction(1), Fraction(3, 2))
    clip = Clip(
        path=Path("x"), width=2, height=2, times=times, fps=Fraction(2), is_variable=False,
        end=Fraction(2), codec="h264", pixel_format="yuv420p", colour=writer.Colour(),
    )  # fmt: skip

    assert (clip.frames, clip.duration) == (2, 1)
