"""Sound, subtitles and folders of pictures are carried over."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.support.video_parts import (
    FPS,
    SIZE,
    constant,
    copy,
    make_clip,
    packets,
    picture,
    write,
)
from venhancer.errors import OptionError, VideoError
from venhancer.video.clip import Reading
from venhancer.video.probe import probe, read_frames
from venhancer.video.writer import encode_png, open_writer

# --- sound and subtitles ------------------------------------------------------------------------


@pytest.mark.parametrize("source", [".mp4", ".mkv"])
@pytest.mark.parametrize("target", [".mp4", ".mkv", ".mov"])
def test_sound_is_copied_bit_for_bit_and_in_sync(tmp_path, source, target):
    """Packets have the same bytes and times; the frames too."""
    clip = probe(make_clip(tmp_path / f"in{source}", 24, sound=True))

    out = copy(clip, tmp_path / f"out{target}")

    before, after = packets(clip.path, "audio"), packets(out.path, "audio")
    assert clip.audio == out.audio == "aac"
    assert [data for _, data in before] == [data for _, data in after]
    assert all(abs(a[0] - b[0]) <= Fraction(1, 1000) for a, b in zip(before, after, strict=True))
    assert all(abs(a - b) < Fraction(1, 1000) for a, b in zip(clip.times, out.times, strict=True))
    assert abs(clip.end - out.end) < 1 / clip.fps


def test_subtitles_are_copied(tmp_path):
    """Matroska to Matroska keeps text and times."""
    clip = probe(make_clip(tmp_path / "in.mkv", subtitles="subrip"))

    out = copy(clip, tmp_path / "out.mkv")

    assert clip.subtitles == out.subtitles == ("subrip",)
    assert packets(clip.path, "subtitles") == packets(out.path, "subtitles")


def test_subtitles_become_mov_text_in_mp4_and_back(tmp_path):
    """MP4 keeps the words without their markup; from there they can return to Matroska."""
    clip = probe(make_clip(tmp_path / "in.mkv", subtitles="subrip"))

    mp4 = copy(clip, tmp_path / "out.mp4")
    mkv = copy(mp4, tmp_path / "back.mkv")

    assert (mp4.subtitles, mkv.subtitles) == (("mov_text",), ("subrip",))
    assert (Fraction(1, 8), b"Hello there") in packets(mkv.path, "subtitles")


def test_a_track_the_container_cannot_hold_is_warned_about(tmp_path, caplog):
    """Subtitles into AVI give one clear line, and the video is written."""
    clip = probe(make_clip(tmp_path / "in.mkv", subtitles="subrip"))

    out = copy(clip, tmp_path / "out.avi")

    assert out.frames == clip.frames
    assert "subtitle (subrip) is left out: avi cannot hold it" in caplog.text


@pytest.mark.parametrize(
    ("codec", "suffix", "is_kept"),
    [("pcm_s16le", ".mp4", True), ("flac", ".mov", False), ("libopus", ".mkv", True)],
)
def test_a_sound_codec_is_copied_or_left_out_never_fatal(tmp_path, codec, suffix, is_kept, caplog):
    """If a container refuses a codec only on closing, the sound is lost, not the video."""
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        video = out.add_stream("libx264", rate=24, **SIZE)
        track = out.add_stream(codec, rate=48000, layout="stereo", format="s16")
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), layout="stereo")
        sound.sample_rate = 48000
        for stream in (video, track):
            out.mux(stream.encode(sound) if stream is track else [])
            out.mux(stream.encode())
    clip = probe(tmp_path / "in.mkv")

    out = copy(clip, tmp_path / f"out{suffix}")

    assert out.frames == 1
    assert out.audio == (clip.audio if is_kept else None)
    assert ("is left out" in caplog.text) is not is_kept


def test_a_codec_the_container_cannot_hold_is_refused(tmp_path):
    """VP9 in MOV fails at the header, so before any frame."""
    with pytest.raises(OptionError, match=r"\.mov cannot hold video of libvpx-vp9"):
        open_writer(tmp_path / "out.mov", **SIZE, fps=FPS, source=None, codec="libvpx-vp9")
    assert not list(tmp_path.iterdir())


# --- folders ------------------------------------------------------------------------------------


def test_a_folder_of_png_goes_in_and_out(tmp_path):
    """PNG frames are exact both ways; the rate is the one asked for."""
    frames = [picture(n / 12, 35, 21) for n in range(12)]

    write(tmp_path / "frames", frames)
    clip = probe(tmp_path / "frames", Reading(folder_fps=Fraction(25)))

    assert (clip.is_folder, clip.width, clip.height, clip.frames) == (True, 35, 21, 12)
    assert clip.times == tuple(Fraction(n, 25) for n in range(12))
    for start in (0, 7):
        found = list(read_frames(clip, start))
        assert all(np.array_equal(a, b) for a, b in zip(found, frames[start:], strict=True))
    assert copy(clip, tmp_path / "out.mp4").fps == 25


def test_png_files_are_taken_in_natural_order(tmp_path):
    """2 comes before 10; hidden files and files without a number are not frames."""
    for name, level in {"a2": 2, "a10": 10, "a1": 1, "cover": 99, "._a3": 3}.items():
        (tmp_path / f"{name}.png").write_bytes(encode_png(constant((level, 0, 0))))
    (tmp_path / "notes7.txt").write_text("7")

    assert [f[0, 0, 0] for f in read_frames(probe(tmp_path))] == [1, 2, 10]


def test_png_files_of_mixed_sizes_are_refused(tmp_path):
    """The message names the file and both sizes."""
    for name, width in {"1": 32, "2": 34}.items():
        (tmp_path / f"{name}.png").write_bytes(encode_png(picture(0, width, 32)))

    with pytest.raises(VideoError, match=r"2\.png is 34x32, but 1\.png is 32x32"):
        probe(tmp_path)


def test_a_still_image_is_a_clip_of_one_frame(tmp_path):
    """A name with % is a name, not a pattern."""
    file = tmp_path / "still%03d.png"
    file.write_bytes(encode_png(picture()))

    clip = probe(file)

    assert (clip.frames, clip.fps, clip.end) == (1, 24, Fraction(1, 24))
    assert np.array_equal(next(read_frames(clip)), picture())
