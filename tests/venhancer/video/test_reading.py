"""Frames are read as a player shows them, from any frame on."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.paths import CONTAINERS
from tests.support.video_parts import constant, make_clip, picture
from venhancer.errors import VideoError
from venhancer.video.clip import Reading
from venhancer.video.colour import Colour
from venhancer.video.probe import probe
from venhancer.video.reading import read_alpha, read_frames

# --- which stream, and its description ----------------------------------------------------------


def test_the_default_stream_is_taken_else_the_largest() -> None:
    """A file with two videos gives its default one; `stream` names another; sound is refused."""
    film = CONTAINERS / "twovideo.mkv"

    assert (probe(film).stream, probe(film).width) == (1, 96)
    assert (probe(film, Reading(stream=0)).width) == 48
    with pytest.raises(VideoError, match=r"no video 2; its streams: 0 \(video\), 1 \(video\)"):
        probe(film, Reading(stream=2))


def test_the_largest_stream_is_taken_if_none_is_the_default(tmp_path: Path) -> None:
    """AVI has no flags; the small stream comes first."""
    with av.open(str(tmp_path / "two.avi"), "w") as out:
        streams = [out.add_stream("mpeg4", rate=24) for _ in range(2)]
        for stream, width in zip(streams, (32, 64), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, 32, "yuv420p"
        for stream, width in zip(streams, (32, 64), strict=True):
            frame = av.VideoFrame.from_ndarray(picture(0, width, 32), format="rgb24")
            out.mux([*stream.encode(frame), *stream.encode(None)])

    assert probe(tmp_path / "two.avi").width == 64


def test_all_streams_are_described() -> None:
    """Each has its kind, codec, language and title."""
    tracks = probe(CONTAINERS / "tracks.mkv").tracks

    assert [track.kind for track in tracks] == ["video", "audio", "audio", "subtitle", "attachment"]
    assert tracks[1].words == "eng, Main, default"
    assert tracks[2].words == "deu, Commentary"
    assert tracks[4].words == "font.ttf"
    assert tracks[0].start == Fraction(23, 1000)


def test_frames_with_gaps_are_counted() -> None:
    """A frame that was decoded around damage is told."""
    assert "frames with gaps: 1" in (probe(CONTAINERS / "corrupt.mkv").damage or "")


# --- deep, grey and transparent pictures --------------------------------------------------------


def raw_frame(pixel_format: str, planes: list[np.ndarray], **tags: int) -> av.VideoFrame:
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        lines = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        lines[:, : values.shape[1]] = values
        plane.update(lines.tobytes())
    for name, value in tags.items():
        setattr(frame, name, value)
    return frame


@pytest.mark.parametrize("depth", [10, 12])
@pytest.mark.parametrize("value_range", [1, 2])
def test_deep_grey_levels_are_exact(depth: int, value_range: int) -> None:
    """Every code of luma becomes its level of 65535, for a limited and a full range."""
    from venhancer.video.rgb import RGBReader

    codes, step = np.arange(2**depth, dtype=np.uint16), 2 ** (depth - 8)
    luma = np.tile(codes, (2, 1))
    chroma = np.full_like(luma, 128 * step)
    frame = raw_frame(f"yuv444p{depth}le", [luma, chroma, chroma])
    reader = RGBReader(len(codes), 2, Colour(matrix=1, range=value_range), depth)

    found = reader.read(frame)[0].astype(np.float64)

    black, white = (16 * step, 235 * step) if value_range == 1 else (0, 2**depth - 1)
    wanted = 65535 * np.clip((codes.astype(np.float64) - black) / (white - black), 0, 1)
    assert np.abs(found - wanted[:, None]).max() <= 1


@pytest.mark.parametrize(("matrix", "red"), [(1, 0.2126), (6, 0.299), (9, 0.2627)])
def test_the_matrix_of_deep_colours(matrix: int, red: float) -> None:
    """Pure red in 10 bits comes back as pure red."""
    from venhancer.video.rgb import RGBReader

    codes = (64 + 876 * red, 512 - 896 * red / (2 * (1 - BLUE[matrix])), 512 + 448)
    planes = [np.full((2, 16), round(code), np.uint16) for code in codes]

    reader = RGBReader(16, 2, Colour(matrix=matrix, range=1), 10)
    found = reader.read(raw_frame("yuv444p10le", planes))

    assert np.abs(found.astype(int) - (65535, 0, 0)).max() <= 130


BLUE = {1: 0.0722, 6: 0.114, 9: 0.0593}


def test_ten_bits_are_read_as_sixteen() -> None:
    """HDR10 gives uint16 frames, its tags and its static metadata."""
    clip = probe(CONTAINERS / "hdr10.mp4")

    frame = next(read_frames(clip))

    assert (frame.dtype, clip.depth, clip.is_hdr) == (np.uint16, 10, True)
    assert clip.colour == Colour(matrix=9, range=1, primaries=9, transfer=16)
    assert clip.hdr.light == (1000, 400)
    assert clip.hdr.mastering is not None
    assert clip.hdr.mastering.brightest == 1000


def test_grey_video_with_a_limited_range_is_stretched() -> None:
    """Codes 16 and 235 of the file are black and white."""
    clip = probe(CONTAINERS / "grayhevc.mp4")
    with av.open(str(clip.path)) as container:
        [codes] = [f.to_ndarray() for f in container.decode(video=0)][:1]

    frame = next(read_frames(clip)).astype(int)

    wanted = np.clip(np.rint((codes.astype(float) - 16) * 255 / 219), 0, 255)
    assert clip.colour.range == 1
    assert np.array_equal(frame[..., 0], wanted)
    assert np.array_equal(frame[..., 0], frame[..., 2])


def test_rgb_sources_are_tagged_with_no_range(tmp_path: Path) -> None:
    """A YUV video made from them has the limited range that players expect."""
    from venhancer.video.png import encode_png

    (tmp_path / "1.png").write_bytes(encode_png(picture()))

    assert probe(tmp_path).colour.range is None
    assert probe(tmp_path).working_colour.range == 1


def test_alpha_is_read_beside_the_colours() -> None:
    """12 bits of alpha fill the whole range; an opaque PNG has no alpha."""
    clip = probe(CONTAINERS / "alpha.mov")

    alpha = next(read_alpha(clip))

    assert clip.has_alpha
    assert (alpha.dtype, alpha.shape) == (np.uint16, (64, 96))
    assert (alpha.min(), alpha.max()) == (0, 65535)


def test_alpha_over_black() -> None:
    """Hidden colours are gone, opaque ones stay."""
    clip = probe(CONTAINERS / "apng.png")
    colours, alpha = next(read_frames(clip)), next(read_alpha(clip))

    shown = next(read_frames(dataclasses.replace(clip, is_over_black=True)))

    assert shown[alpha == 0].max() == 0
    assert np.array_equal(shown[alpha == 255], colours[alpha == 255])
    half = (alpha > 0) & (alpha < 255)
    wanted = colours[half] * (alpha[half, None] / 255)
    assert np.abs(shown[half] - wanted).max(initial=0) <= 0.5 + 1e-4


def test_a_gif_with_transparency_has_alpha(tmp_path: Path) -> None:
    """The transparent colour of its palette counts."""
    from PIL import Image

    pictures = []
    for k in range(3):
        image = np.zeros((16, 16, 4), np.uint8)
        image[2:8, 2 + k : 8 + k] = (250, 20, 20, 255)
        pictures.append(Image.fromarray(image))
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2
    )

    clip = probe(tmp_path / "a.gif")

    assert (clip.frames, clip.has_alpha) == (3, True)
    assert {int(v) for v in np.unique(next(read_alpha(clip)))} == {0, 255}


def test_a_size_that_changes_gets_black_bars() -> None:
    """The later frames keep their shape inside the first size, and this is told."""
    clip = probe(CONTAINERS / "resize.ts")

    frames = list(read_frames(clip))

    assert (clip.width, clip.height) == (96, 64)
    assert "from frame 9 on some frames are 64x96" in clip.notes[-1]
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    upright = frames[-1]
    assert upright[:, :26].max() == upright[:, -26:].max() == 0  # 64x96 fits as 43x64
    assert upright[:, 30:60].mean() > 20


# --- fields -------------------------------------------------------------------------------------


def combs(frame: np.ndarray) -> float:
    """Measure how much every line differs from both neighbours, in the same direction."""
    luma = frame.astype(float).mean(axis=2)
    up, down = luma[1:-1] - luma[:-2], luma[1:-1] - luma[2:]
    return float(np.minimum(np.abs(up), np.abs(down))[up * down > 0].sum() / luma.size)


def test_interlaced_frames_are_deinterlaced() -> None:
    """The combs go, the count of frames stays, and this is told."""
    clip, raw = (probe(CONTAINERS / "bar.mp4", Reading(deinterlace=way)) for way in ("auto", "off"))

    woven, clean = (max(map(combs, read_frames(it))) for it in (raw, clip))

    assert (clip.is_interlaced, raw.is_interlaced) == (True, False)
    assert "deinterlaced" in clip.notes[0]
    assert len(list(read_frames(clip))) == clip.frames == raw.frames == 12
    assert clean < woven / 5


def test_each_field_can_become_a_frame() -> None:
    """`double` gives twice the frames at twice the rate, in the same time."""
    clip = probe(CONTAINERS / "bar.mp4", Reading(deinterlace="double"))

    assert (clip.frames, clip.fps, clip.duration) == (24, 50, Fraction(12, 25))
    assert len(list(read_frames(clip))) == 24


@pytest.mark.parametrize("way", ["auto", "double"])
def test_deinterlaced_frames_are_the_same_from_any_frame_on(way: str) -> None:
    """A run that goes on later reads the same pixels."""
    clip = probe(CONTAINERS / "bar.mp4", Reading(deinterlace=way))  # type: ignore[arg-type]
    whole = list(read_frames(clip))

    for start in (1, 5, clip.frames - 2):
        for a, b in zip(read_frames(clip, start), whole[start:], strict=True):
            assert np.array_equal(a, b)


def test_progressive_video_is_left_alone(tmp_path: Path) -> None:
    """Nothing is filtered, nothing is told."""
    clip = probe(make_clip(tmp_path / "in.mp4"))

    assert (clip.is_interlaced, clip.notes) == (False, ())


# --- as wanted ----------------------------------------------------------------------------------


def test_the_clip_is_read_as_sdr_where_that_is_wanted() -> None:
    """8 bits, BT.709, and the same number of frames."""
    clip = probe(CONTAINERS / "hdr10.mp4", Reading(hdr="sdr"))

    frame = next(read_frames(clip))

    assert (frame.dtype, clip.depth, clip.is_hdr) == (np.uint8, 8, False)
    assert clip.colour == Colour(matrix=1, range=1, primaries=1, transfer=1)
    assert clip.notes == ("HDR is tone-mapped to SDR (BT.709, 8 bits)",)


def test_reading_begins_at_any_frame(tmp_path: Path) -> None:
    """Frames after a seek are those of a full read, also where stamps were rounded."""
    make: Callable[..., Path] = make_clip
    for name in ("in.mkv", "in.mp4"):
        clip = probe(make(tmp_path / name, 150))
        whole = list(read_frames(clip))
        for start in (1, 120, 149):
            rest = list(read_frames(clip, start))
            assert len(rest) == 150 - start
            assert all(np.array_equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_constant_pictures_have_exact_colours(tmp_path: Path) -> None:
    """A PNG folder gives its bytes back."""
    from venhancer.video.png import encode_png

    (tmp_path / "1.png").write_bytes(encode_png(constant((1, 128, 254))))

    assert next(read_frames(probe(tmp_path)))[3, 3].tolist() == [1, 128, 254]


# --- found by review ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["in.mp4", "in.ts", "in.mkv"])
def test_the_video_need_not_be_the_first_stream(tmp_path: Path, name: str) -> None:
    """The frames that the decoder holds back to the end keep their times."""
    make_clip(tmp_path / "film.mp4", 24, sound=True)
    with av.open(str(tmp_path / "film.mp4")) as film, av.open(str(tmp_path / name), "w") as out:
        kinds = {
            stream.index: out.add_stream_from_template(stream)
            for stream in (film.streams.audio[0], film.streams.video[0])
        }
        for packet in film.demux():
            if packet.size:
                packet.stream = kinds[packet.stream.index]
                out.mux(packet)

    clip = probe(tmp_path / name)

    assert (clip.stream, clip.frames, clip.fps, clip.duration) == (1, 24, 24, 1)


def test_a_program_stream_with_its_sound_first(tmp_path: Path) -> None:
    """Its frames are reordered and come out at the end; they keep their times."""
    with av.open(str(tmp_path / "in.mpg"), "w", format="mpeg") as out:
        sound = out.add_stream("mp2", rate=48000)
        film = out.add_stream("mpeg2video", rate=25)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        film.codec_context.max_b_frames = 2
        for k in range(25):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 3840), np.int16), layout="stereo")
            silence.sample_rate, silence.pts = 48000, 1920 * k
            out.mux(sound.encode(silence))
            frame = av.VideoFrame.from_ndarray(picture(k / 25), format="rgb24")
            frame.pts = k
            out.mux(film.encode(frame))
        for stream in (sound, film):
            out.mux(stream.encode(None))

    clip = probe(tmp_path / "in.mpg")

    assert (clip.frames, clip.fps, clip.duration) == (25, 25, 1)


def test_a_title_in_another_encoding_is_no_obstacle(tmp_path: Path) -> None:
    """Old files have titles in Latin-1."""
    with av.open(str(tmp_path / "a.avi"), "w") as out:
        stream = out.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.metadata["title"] = "CafeXY"
        for _ in range(12):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        out.mux(stream.encode(None))
    data = (tmp_path / "a.avi").read_bytes()
    assert b"CafeXY" in data
    (tmp_path / "a.avi").write_bytes(data.replace(b"CafeXY", b"Caf\xe9XY"))

    assert probe(tmp_path / "a.avi").frames == 12


def test_the_deepest_picture_of_a_folder_decides(tmp_path: Path) -> None:
    """16 bits after 8 are not cut; pictures of 8 bits fill the same range."""
    from venhancer.video.png import encode_png

    (tmp_path / "1.png").write_bytes(encode_png(picture()))
    (tmp_path / "2.png").write_bytes(encode_png(np.full((48, 64, 3), 300, np.uint16)))

    clip = probe(tmp_path)

    first, second = read_frames(clip)
    assert clip.depth == 16
    assert np.array_equal(first, picture().astype(np.uint16) * 257)
    assert (second == 300).all()
