"""Writing a video file and reading it keeps pixels, colours and times."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.support.video_parts import (
    constant,
    copy,
    error_between,
    make_clip,
    picture,
    write,
)
from venhancer.video.colour import Colour
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import clock_tick
from venhancer.video.yuv import YUVMaker

# --- pixels and colour --------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("value_range", [1, 2])
@pytest.mark.parametrize("colour", [(200, 40, 60), (20, 230, 120), (255, 255, 255)])
def test_colours_survive_with_the_tags_of_the_source(tmp_path, matrix, value_range, colour):
    """bt601 and bt709, limited and full: a colour stays within 2 levels, the tags stay."""
    source = probe(make_clip(tmp_path / "in.mp4", 2, tags=(matrix, value_range)))

    out = write(tmp_path / "out.mp4", [constant(colour)] * 3, source=source, crf=1)

    assert (source.colour.matrix, source.colour.range) == (matrix, value_range)
    assert (out.colour.matrix, out.colour.range) == (matrix, value_range)
    assert error_between(next(read_frames(out)), constant(colour)) <= 2


@pytest.mark.parametrize(("height", "matrix"), [(48, 6), (720, 1)])
def test_untagged_video_is_bt709_from_720_lines_up(tmp_path, height, matrix):
    """The input's number of lines decides its matrix and tag, whatever the output's size."""
    source = probe(make_clip(tmp_path / "in.mp4", 1, width=32, height=height))

    out = write(tmp_path / "out.mp4", [constant((200, 40, 60), 32, 96)], source=source)

    assert source.colour.matrix is None
    assert (out.colour.matrix, out.colour.range) == (matrix, 1)


def test_the_matrix_is_used_when_reading(tmp_path):
    """The same YUV read as bt601 and as bt709 gives different RGB."""
    clips = [probe(make_clip(tmp_path / f"{m}.mp4", 2, tags=(m, 1))) for m in (1, 6)]

    images = [list(read_frames(clip))[1] for clip in clips]

    assert error_between(*images) > 10


def test_hdr_in_h264_has_eight_bits_and_its_tags(tmp_path):
    """Colours are converted by their own matrix, also where the encoder writes 8 bits."""
    with av.open(str(tmp_path / "in.mp4"), "w") as out:
        video = out.add_stream("libx265", rate=24, options={"x265-params": "log-level=none"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p10le"
        video.codec_context.colorspace, video.codec_context.color_range = 9, 1
        video.codec_context.color_primaries, video.codec_context.color_trc = 9, 16
        maker = YUVMaker("yuv420p10le", Colour(matrix=9, range=1, primaries=9, transfer=16))
        for _ in range(3):  # x265 gives a clip of one or two frames random times
            out.mux(video.encode(maker.make(constant((200, 40, 60), 64, 64))))
        out.mux(video.encode())
    clip = probe(tmp_path / "in.mp4")

    result = copy(clip, tmp_path / "out.mp4", codec="libx264")

    assert (clip.pixel_format, result.pixel_format) == ("yuv420p10le", "yuv420p")
    assert error_between(next(read_frames(clip)) >> 8, constant((200, 40, 60), 64, 64)) <= 3
    assert clip.colour == result.colour
    assert (clip.colour.matrix, clip.colour.primaries, clip.colour.transfer) == (9, 9, 16)


@pytest.mark.parametrize("size", [(63, 48), (64, 47), (33, 35)])
def test_an_odd_size_is_kept_exactly(tmp_path, size):
    """No size is rounded to even."""
    out = write(tmp_path / "out.mp4", [picture(0.5, *size)] * 2)

    assert (out.width, out.height) == size
    assert out.pixel_format == "yuv444p"
    assert error_between(next(read_frames(out)), picture(0.5, *size)) < 60


@pytest.mark.parametrize(
    ("degrees", "corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1)), (0, (0, 0))]
)
def test_a_rotated_clip_comes_upright(tmp_path, degrees, corner):
    """The display matrix is applied to size and pixels, and is not in the output."""
    clip = probe(make_clip(tmp_path / "in.mp4", 2, rotation=degrees))

    out = copy(clip, tmp_path / "out.mp4")

    for found in (clip, out):
        image = next(read_frames(found))
        assert image.shape == (found.height, found.width, 3)
        assert (found.width > found.height) == (degrees in (0, 180))
        assert image[corner].min() > 200
        assert image.flags.c_contiguous


# --- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_variable_frame_rate_keeps_every_time(tmp_path, suffix):
    """Uneven times, not starting at 0, are kept to less than 1 ms, the end too."""
    times = [Fraction(t, 1000) for t in (500, 533, 600, 613, 900, 1000, 1501)]
    frames = [picture(n / 7) for n in range(7)]

    out = write(tmp_path / f"out{suffix}", frames, times, fps=Fraction(30))

    assert out.is_variable
    assert out.frames == 7
    assert all(abs(a - b) < Fraction(1, 1000) for a, b in zip(out.times, times, strict=True))
    assert abs(out.end - times[-1] - Fraction(1, 30)) < Fraction(2, 1000)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60)])
def test_constant_frame_rate_is_exact_over_300_frames(tmp_path, fps):
    """The last of 300 frames has its exact time, to the tick."""
    out = write(
        tmp_path / "out.mp4", [constant((n % 256, 9, 9), 32, 32) for n in range(300)], fps=fps
    )

    assert out.times == tuple(n / fps for n in range(300))
    assert (out.fps, out.end, out.is_variable) == (fps, 300 / fps, False)


def test_matroska_rounding_is_no_variable_rate(tmp_path):
    """Times in whole milliseconds at 29.97 are a constant rate with its nominal value."""
    out = write(tmp_path / "out.mkv", [picture()] * 30, fps=Fraction(30000, 1001))

    assert (out.is_variable, out.fps) == (False, Fraction(30000, 1001))


def test_the_clock_counts_rate_and_times_exactly():
    """Every rate that can be exact below a million ticks a second is exact."""
    tick = clock_tick(Fraction(24000, 1001), (Fraction(1, 90000), Fraction(7, 12288)))
    assert clock_tick(Fraction(24000, 1001), (Fraction(1, 90000),)).denominator % 90000 == 0
    assert tick <= Fraction(1, 100_000)


def test_a_single_frame_is_a_clip(tmp_path):
    """It has one frame, one time, the nominal rate."""
    out = write(tmp_path / "out.mp4", [picture()])

    assert (out.frames, out.fps, out.end, out.is_variable) == (1, 24, Fraction(1, 24), False)
    assert len(list(read_frames(out))) == 1


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 3), (5, None), (150, 160), (199, 200), (200, None)]
)
def test_any_range_of_frames_can_be_read(tmp_path, start, stop):
    """Reading from the middle, with or without a seek, gives the frames of a full read."""
    frames = [constant((n, 255 - n, 128), 32, 32) for n in range(200)]
    clip = write(tmp_path / "clip.mp4", frames)

    found = list(read_frames(clip, start, stop))

    everything = list(read_frames(clip))
    assert len(found) == len(everything[start:stop])
    assert all(np.array_equal(a, b) for a, b in zip(found, everything[start:stop], strict=True))
