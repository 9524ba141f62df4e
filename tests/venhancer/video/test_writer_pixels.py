"""Pixels that the writer makes: same bits for 8 bits, exact deeper levels, alpha, tags, end."""

import hashlib
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.support.video_parts import FPS, SIZE, picture, write
from venhancer.errors import ShapeError
from venhancer.video.colour import Colour
from venhancer.video.png import encode_png
from venhancer.video.probe import probe
from venhancer.video.reading import read_alpha, read_frames
from venhancer.video.writer import open_writer
from venhancer.video.yuv import YUVMaker

LIMITED, FULL = 1, 2
WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def bits_of(frame):
    """Hash the planes of a frame."""
    return hashlib.sha256(b"".join(bytes(plane) for plane in frame.planes)).hexdigest()[:16]


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def deep_picture(width=64, height=48):
    """Make a smooth picture of 16 bits."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 65535 // (width - 1), rows * 65535 // (height - 1)
    return np.stack([red, green, (red + green) // 2], 2).astype(np.uint16)


def with_alpha(frame):
    """Add alpha that takes many levels from left to right."""
    largest = np.iinfo(frame.dtype).max
    ramp = np.linspace(0, largest, frame.shape[1]).astype(frame.dtype)
    return np.dstack([frame, np.broadcast_to(ramp, frame.shape[:2])])


# --- 8 bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixel_format", "matrix", "value_range", "expected"),
    [
        ("yuv420p", 1, 1, "201a5e6cacb8ca75"),
        ("yuv420p", 6, 1, "9c27548afae79591"),
        ("yuv420p", 6, 2, "2121051b410d3dd4"),
        ("yuv444p", 1, 1, "a01bbed76a2c58e9"),
    ],
)
def test_eight_bits_are_the_same_as_ever(pixel_format, matrix, value_range, expected):
    """The planes are those of the version before deeper frames came."""
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)

    made = YUVMaker(pixel_format, Colour(matrix=matrix, range=value_range)).make(image)

    assert bits_of(made) == expected
    assert (made.colorspace, made.color_range) == (matrix, value_range)


def test_png_files_of_eight_bits_are_the_same_as_ever():
    """They hold the pixels alone: no colour tags, unless they are HDR."""
    data = encode_png(picture(), Colour(matrix=1, range=1, primaries=1, transfer=1))

    assert hashlib.sha256(data).hexdigest()[:16] == "4609c390f25c0584"


def test_frames_may_be_views(tmp_path):
    """A frame need not be contiguous."""
    wide = np.concatenate([picture(), picture(1)], axis=1)

    written = write(tmp_path / "out.mkv", [wide[:, :64]], codec="ffv1")
    whole = write(tmp_path / "same.mkv", [picture()], codec="ffv1")

    assert all(map(np.array_equal, read_frames(written), read_frames(whole)))


# --- deeper -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("depth", [10, 12, 16])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_deep_levels_follow_the_standard(kind, depth, matrix, value_range):
    """Every code is the rounded one of ITU-T H.273, for 8-bit frames too."""
    frame = deep_picture() if kind == np.uint16 else picture()
    red, blue = WEIGHTS[matrix]
    r, g, b = np.moveaxis(frame / np.iinfo(kind).max, 2, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    step, largest = 2 ** (depth - 8), 2**depth - 1
    if value_range == FULL:
        wanted = [y * largest, u * largest + 128 * step, v * largest + 128 * step]
    else:
        wanted = [step * (219 * y + 16), step * (224 * u + 128), step * (224 * v + 128)]

    made = YUVMaker(f"yuv444p{depth}le", Colour(matrix=matrix, range=value_range)).make(frame)

    for plane, ideal in zip(made.planes, wanted, strict=True):
        codes = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width]
        assert np.abs(codes - np.clip(ideal, 0, largest)).max() < (0.52 if depth < 16 else 1)


def test_sixteen_bits_become_eight_without_a_shift():
    """White, black and the mean stay, though the frame is dithered."""
    frame = np.full((48, 64, 3), 30_000, np.uint16)
    maker = YUVMaker("yuv420p", Colour(matrix=1, range=LIMITED))

    for level, luma in ((0, 16), (65535, 235), (30_000, 16 + 219 * 30_000 / 65535)):
        frame[...] = level
        plane = np.frombuffer(maker.make(frame).planes[0], np.uint8)
        assert plane.reshape(48, -1)[:, :64].mean() == pytest.approx(luma, abs=0.2)


@pytest.mark.parametrize("pixel_format", ["gbrp10le", "gbrp12le", "gbrp16le", "bgr0"])
def test_rgb_formats_keep_rgb(tmp_path, pixel_format):
    """Levels come back within one code, tagged as RGB of the full range."""
    frame = deep_picture()
    write(tmp_path / "out.mkv", [frame], codec="ffv1", pixel_format=pixel_format)

    [written] = decoded(tmp_path / "out.mkv")
    code = 65535 / (2 ** written.format.components[0].bits - 1)
    name, scale = ("rgb24", 257) if pixel_format == "bgr0" else ("rgb48le", 1)
    found = written.to_ndarray(format=name).astype(float) * scale
    assert (written.colorspace, written.color_range) == (0, FULL)
    assert np.abs(found - frame).max() <= code + 1


# --- range --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("pixel_format", ["rgb24", "yuv420p"])
def test_video_of_rgb_sources_has_limited_range(tmp_path, name, pixel_format):
    """PNG files, RGB video and frames of a program become what players expect: no yuvj420p."""
    write(tmp_path / "in", [picture()] * 3)
    clip = replace(probe(tmp_path / "in"), pixel_format=pixel_format)

    write(tmp_path / name, [picture()] * 3, source=clip)

    written = decoded(tmp_path / name)[0]
    assert (written.format.name, written.color_range) == ("yuv420p", LIMITED)


def test_full_range_stays_full(tmp_path):
    """A YUV source of the full range gives such an output, with its tag."""
    clip = write(tmp_path / "in.mkv", [picture()] * 3)
    full = replace(clip, colour=replace(clip.colour, range=FULL))

    write(tmp_path / "out.mp4", [picture()] * 3, source=full)

    assert decoded(tmp_path / "out.mp4")[0].color_range == FULL


# --- alpha --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("name", "pixel_format", "tolerance"),
    [
        ("out.mov", "yuva444p10le", 0.002),
        ("out.mkv", "yuva444p", 0.003),
        ("out.mkv", "gbrap12le", 0.0005),
        ("out.mkv", "bgra", 0.003),
        ("out", None, 0),
    ],
)
def test_alpha_comes_back(tmp_path, kind, name, pixel_format, tolerance):
    """ProRes 4444, FFV1 and PNG files keep alpha, rounded to their bits; colours are not mixed."""
    colours = picture() if kind == np.uint8 else deep_picture()
    frames = [with_alpha(colours)] * 2
    deep = replace(
        write(tmp_path / "source.mkv", [picture()]), depth=16 if kind == np.uint16 else 8
    )
    clip = write(
        tmp_path / name,
        frames,
        source=deep,
        codec={".mov": "prores_ks", ".mkv": "ffv1"}.get((tmp_path / name).suffix),
        pixel_format=pixel_format,
        has_alpha=True,
    )

    assert clip.has_alpha
    largest = np.iinfo(clip.frame_type).max
    alpha, pixels = next(iter(read_alpha(clip))) / largest, next(iter(read_frames(clip))) / largest
    wanted = frames[0] / np.iinfo(kind).max
    assert np.abs(alpha - wanted[..., 3]).max() <= tolerance
    assert np.abs(pixels - wanted[..., :3]).mean() < 0.01
    if pixel_format == "gbrap12le":  # nothing is lost but the bits
        assert np.abs(pixels - wanted[..., :3]).max() <= tolerance


def test_frames_must_have_alpha_if_it_was_promised(tmp_path):
    """Three channels are refused where four were said, and the other way round."""
    for has_alpha, frame in ((True, picture()), (False, with_alpha(picture()))):
        with (
            pytest.raises(ShapeError, match=r"frames should be \(48, 64, "),
            open_writer(
                tmp_path / "out.mov", **SIZE, fps=FPS, source=None, has_alpha=has_alpha
            ) as writer,
        ):
            writer.write(frame, Fraction(0))


def test_floats_are_refused(tmp_path):
    """The message says which types are taken."""
    with (
        pytest.raises(ShapeError, match="uint8 or uint16, got float32"),
        open_writer(tmp_path / "out.mp4", **SIZE, fps=FPS, source=None) as writer,
    ):
        writer.write(picture().astype(np.float32), Fraction(0))


# --- end ----------------------------------------------------------------------------------------


def end_of(path):
    """Return the seconds at which the last packet ends."""
    with av.open(str(path)) as container:
        return max(
            (packet.pts + packet.duration) * packet.time_base
            for packet in container.demux(video=0)
            if packet.size
        )


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("end", [Fraction(7, 24), Fraction(2)])
def test_the_last_frame_ends_when_it_is_told_to(tmp_path, name, end):
    """The given time wins over the source's end and over the length of a frame."""
    source = write(tmp_path / "in.mp4", [picture()] * 6)

    write(tmp_path / name, [picture()] * 6, source=source, end=end)

    assert end_of(tmp_path / name) == pytest.approx(float(end), abs=0.002)


def test_without_an_end_the_last_frame_is_as_long_as_the_source_says(tmp_path):
    """This is how it was before."""
    source = write(tmp_path / "in.mp4", [picture()] * 6)

    write(tmp_path / "out.mp4", [picture()] * 6, source=source)

    assert end_of(tmp_path / "out.mp4") == source.end
