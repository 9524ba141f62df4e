"""Choice of encoder, pixel format and options, and the files that come of it."""

import re
from dataclasses import replace
from pathlib import Path

import av
import pytest

from tests.support.clips import described_clip
from tests.support.paths import ROOT
from tests.support.video_parts import picture, write
from venhancer.errors import OptionError
from venhancer.video.clip import HDR
from venhancer.video.colour import Colour
from venhancer.video.encoders import choose_encoding, keeps_alpha
from venhancer.video.probe import probe
from venhancer.video.writer import open_writer

CONTAINERS = ROOT / "tests" / "data" / "containers"
PQ = Colour(matrix=9, range=1, primaries=9, transfer=16)


def source(depth=8, pixel_format="yuv420p", has_alpha=False, **fields):
    """Describe a clip of 64x48."""
    clip = described_clip(width=64, height=48)
    shown = {"depth": depth, "pixel_format": pixel_format, "has_alpha": has_alpha}
    return replace(clip, **shown, **fields)


def choose(name="out.mp4", clip=None, width=64, height=48, **options):
    return choose_encoding(Path(name), clip, width, height, **options)


# --- defaults -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clip", "codec", "pixel_format"),
    [
        ("out.mp4", None, "libx264", "yuv420p"),
        ("out.mkv", source(), "libx264", "yuv420p"),
        ("out.mp4", source(9), "libx265", "yuv420p10le"),
        ("out.mov", source(10), "libx265", "yuv420p10le"),
        ("out.mkv", source(12), "libx265", "yuv420p10le"),
        ("out.mkv", source(16, "rgb48be"), "libx265", "yuv420p10le"),
        ("out.avi", source(10), "libx264", "yuv420p"),
        ("out.mp4", source(8, "gray"), "libx264", "yuv420p"),
        ("frames", source(8), "png", "rgb24"),
        ("frames", source(10), "png", "rgb48be"),
    ],
)
def test_the_depth_decides_the_encoder(name, clip, codec, pixel_format):
    """H.264 gets 8 bits and H.265 more, except in AVI, which cannot hold it."""
    chosen = choose(name, clip)

    assert (chosen.codec, chosen.pixel_format) == (codec, pixel_format)
    assert not chosen.keeps_alpha


@pytest.mark.parametrize(
    ("codec", "clip", "size", "pixel_format"),
    [
        ("libx264", source(10), (64, 48), "yuv420p"),
        ("libx264", source(10), (63, 48), "yuv444p"),
        ("libx265", source(10), (64, 47), "yuv444p10le"),
        ("libx265", source(8), (64, 48), "yuv420p"),
        ("libsvtav1", source(12), (64, 48), "yuv420p10le"),
        ("libvpx-vp9", source(10), (64, 48), "yuv420p"),
        ("prores_ks", source(8), (64, 48), "yuv422p10le"),
        ("prores_ks", source(8), (63, 48), "yuv444p10le"),
        ("ffv1", source(8), (64, 48), "yuv420p"),
        ("ffv1", source(8, "nv12"), (64, 48), "yuv420p"),
        ("ffv1", source(8, "yuvj422p"), (64, 48), "yuv422p"),
        ("ffv1", source(10, "p010le"), (64, 48), "yuv420p10le"),
        ("ffv1", source(12, "yuv422p12le"), (64, 48), "yuv422p12le"),
        ("ffv1", source(12, "yuv422p12le"), (63, 48), "yuv444p12le"),
        ("ffv1", source(8, "rgb24"), (63, 48), "bgr0"),
        ("ffv1", source(10, "gbrp10le"), (64, 48), "gbrp10le"),
        ("ffv1", source(16, "rgb48be"), (64, 48), "gbrp16le"),
        ("ffv1", source(12, "gray12le"), (63, 47), "gray12le"),
        ("hevc_nvenc", source(10), (64, 48), "p010le"),
        ("hevc_qsv", source(8), (64, 48), "nv12"),
    ],
)
def test_the_pixel_format_fits_source_and_encoder(codec, clip, size, pixel_format):
    """The source's depth is kept if the encoder can, odd sizes are 4:4:4, FFV1 changes nothing."""
    chosen = choose("out.mkv", clip, *size, codec=needed(codec))

    assert chosen.pixel_format == pixel_format


def needed(codec):
    """Skip the test if this FFmpeg has no such encoder."""
    try:
        av.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"needs {codec}")
    return codec


# --- alpha --------------------------------------------------------------------------------------

ALPHA = source(8, "rgba", has_alpha=True)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("out.mov", "prores_ks", "yuva444p10le"),
        ("out.mkv", "ffv1", "bgra"),
        ("out", "png", "rgba"),
        ("out.mp4", "libx264", None),
        ("out.avi", "libx264", None),
    ],
)
def test_alpha_is_kept_where_the_container_can(name, codec, pixel_format):
    """ProRes in MOV, FFV1 in Matroska and PNG keep it; elsewhere H.264 without it is taken."""
    chosen = choose(name, ALPHA, has_alpha=True)

    assert chosen.codec == codec
    assert chosen.keeps_alpha is (pixel_format is not None)
    assert keeps_alpha(Path(name), ALPHA, None, None) is chosen.keeps_alpha
    if pixel_format:
        assert chosen.pixel_format == pixel_format


def test_alpha_is_kept_only_if_there_is_any_and_the_format_has_it():
    """A source without alpha, an encoder without it and a format without it keep none."""
    assert not keeps_alpha(Path("out.mov"), source(), None, None)
    assert not keeps_alpha(Path("out.mkv"), ALPHA, "libx265", "yuva420p")
    assert not keeps_alpha(Path("out.mkv"), ALPHA, "ffv1", "yuv420p")
    assert not keeps_alpha(Path("out.mov"), ALPHA, None, "yuv420p")
    assert keeps_alpha(Path("out.mkv"), ALPHA, "ffv1", "yuva420p")


def test_prores_keeps_the_alpha_of_prores(tmp_path):
    """It is decoded as 12 bits and written as 10, which a note says."""
    clip = probe(CONTAINERS / "alpha.mov")

    chosen = choose("out.mov", clip, has_alpha=True)

    assert (clip.depth, chosen.pixel_format, chosen.keeps_alpha) == (12, "yuva444p10le", True)
    assert chosen.options == {"profile": "4444"}
    assert [note for note in chosen.notes if "ffv1 (.mkv) keeps them" in note]


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"crf": "20", "preset": "faster"}),
        ("libx265", {"crf": "20", "preset": "faster", "x265-params": "log-level=error"}),
        ("libsvtav1", {"crf": "20", "preset": "8"}),
        ("libvpx-vp9", {"crf": "20", "b": "0", "cpu-used": "1", "row-mt": "1"}),
        ("h264_nvenc", {"cq": "20", "rc": "vbr", "b": "0", "preset": "p4"}),
        ("hevc_nvenc", {"cq": "20", "rc": "vbr", "b": "0", "preset": "p4"}),
        ("av1_nvenc", {"cq": "20", "rc": "vbr", "b": "0", "preset": "p4"}),
        ("h264_qsv", {"global_quality": "20", "preset": "medium"}),
        ("prores_ks", {"profile": "hq"}),
        ("ffv1", {"level": "3", "slicecrc": "1", "g": "1"}),
    ],
)
def test_each_family_has_its_own_options(codec, options):
    """The quality goes to the option that the encoder has, with its usual speed."""
    assert choose("out.mkv", codec=needed(codec), crf=20).options == options


def test_an_encoder_outside_the_table_gets_crf_if_it_has_it():
    """MPEG-4 has none; a note says so."""
    chosen = choose("out.mp4", codec="mpeg4", crf=20)

    if hasattr(av.CodecContext.create("mpeg4", "w"), "supported_options"):
        assert chosen.options == {}
        assert chosen.notes == ("mpeg4 has no crf: it writes at its own usual quality",)
    assert chosen.pixel_format == "yuv420p"


@pytest.mark.parametrize(
    ("codec", "name", "values"),
    [
        ("libx264", "preset", ["veryfast", "faster", "slow"]),
        ("libx265", "preset", ["superfast", "faster", "slow"]),
        ("libsvtav1", "preset", ["10", "8", "5"]),
        ("libvpx-vp9", "cpu-used", ["4", "1", "0"]),
        ("hevc_nvenc", "preset", ["p1", "p4", "p7"]),
    ],
)
def test_speed_is_a_preset_of_the_encoder(codec, name, values):
    """Each of the three speeds has its own."""
    speeds = ("fast", "medium", "slow")
    chosen = [choose("out.mkv", codec=needed(codec), speed=speed) for speed in speeds]

    assert [encoding.options[name] for encoding in chosen] == values


@pytest.mark.parametrize(
    ("crf", "profile"), [(17, "hq"), (23, "standard"), (30, "lt"), (40, "proxy")]
)
def test_quality_chooses_the_profile_of_prores(crf, profile):
    """4:4:4 has a profile of its own."""
    assert choose("out.mov", codec="prores_ks", crf=crf).options == {"profile": profile}
    odd = choose("out.mov", width=63, codec="prores_ks", crf=crf)
    assert odd.options == {"profile": "4444"}


# --- what cannot be done ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.mp4", {"codec": "libfoo"}, "'libfoo' is no encoder"),
        ("out.mp4", {"codec": "aac"}, "'aac' encodes audio, not video"),
        ("out.mp4", {"crf": 52}, "crf of libx264 should be between 0 and 51, got 52"),
        ("out.mp4", {"crf": 64, "codec": "libsvtav1"}, "between 0 and 63, got 64|no encoder"),
        ("out.avi", {"codec": "libx265"}, r"\.avi cannot hold video of libx265"),
        ("out.mp4", {"codec": "prores_ks"}, r"\.mp4 cannot hold video of prores_ks"),
        (
            "out.mp4",
            {"pixel_format": "yuv420p12le", "codec": "libx264"},
            "libx264 has no yuv420p12",
        ),
        (
            "out.mkv",
            {"pixel_format": "rgb48be", "codec": "ffv1"},
            r"ffv1 has no rgb48be: .*, \.\.\.",
        ),
        ("out.mp4", {"pixel_format": "yuvj420p"}, "yuvj420p is an old name: take yuv420p"),
        ("out.mp4", {"pixel_format": "foo"}, "'foo' is no pixel format"),
        ("out.mov", {"pixel_format": "pal8", "codec": "png"}, "'pal8' is no pixel format to write"),
        (
            "out.mp4",
            {"codec": "libsvtav1", "width": 63},
            "libsvtav1.* (odd sizes need 4:4:4|no encoder)",
        ),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_one_line(name, options, message):
    """The line names what was found and what to take instead."""
    with pytest.raises(OptionError, match=message) as caught:
        choose(name, **options)
    assert "\n" not in str(caught.value)


def test_a_format_that_only_the_other_encoder_has_chooses_it():
    """Planar RGB is no format of libx264, so libx265 is the default then."""
    assert choose(pixel_format="gbrp").codec == "libx265"
    assert choose(pixel_format="yuv420p10le").codec == "libx264"
    assert choose(clip=source(10), pixel_format="nv12").codec == "libx264"


def test_alpha_that_cannot_be_written_is_refused_by_the_writer(tmp_path):
    """Frames with alpha never lose it in silence."""
    with pytest.raises(OptionError, match=r"libx264 in \.mp4 does not keep alpha"):
        open_writer(tmp_path / "out.mp4", width=64, height=48, fps=24, source=None, has_alpha=True)
    assert not list(tmp_path.iterdir())


# --- notes --------------------------------------------------------------------------------------


def test_fewer_bits_are_noted():
    """The note names the bits of both sides, and what keeps them."""
    [note] = choose(clip=source(10), codec="libx264").notes

    assert note.startswith("the input has 10 bits, libx264 writes 8 here: --codec libx265")
    assert choose(clip=source(10), codec="libx264", pixel_format="yuv420p10le").notes == ()
    assert choose(clip=source(10)).notes == choose(clip=source(8)).notes == ()


def test_the_advice_of_the_note_is_not_what_was_chosen():
    """With the encoder that keeps them, it is the named pixel format that does not."""
    [named] = choose(clip=source(10), codec="libx265", pixel_format="yuv420p").notes
    [deepest] = choose(clip=source(16, "rgb48be")).notes

    assert "libx265 without --pixel-format keeps them" in named
    assert "--codec ffv1 (.mkv) keeps them" in deepest


def test_twelve_bits_need_a_named_format():
    """Few players show them, so the usual output has 10, and a note says how to keep 12."""
    [note] = choose("out.mkv", source(12)).notes

    assert "the input has 12 bits, libx265 writes 10 here: --pixel-format yuv420p12le" in note
    assert choose("out.mkv", source(12), pixel_format="yuv420p12le").notes == ()


def test_colours_of_less_resolution_are_noted():
    """4:4:4 and 4:2:2 lose something in 4:2:0, unless the output is at least twice the size."""
    [note] = choose(clip=source(8, "yuv444p")).notes

    assert note.endswith("in yuv420p: --pixel-format yuv444p keeps it")
    assert choose(clip=source(8, "yuv444p"), width=128, height=96).notes == ()
    assert "yuv422p10le" in choose(clip=source(10, "yuv422p10le")).notes[0]
    assert choose(clip=source(8, "yuv444p"), pixel_format="yuv444p").notes == ()


def test_hdr_in_eight_bits_is_noted():
    """PQ needs more; tone mapping is the way to 8 bits."""
    notes = choose(clip=source(10, colour=PQ), codec="libx264").notes

    assert [note for note in notes if "HDR in 8 bits" in note and "--hdr sdr" in note]
    assert choose(clip=source(10, colour=PQ)).notes == ()


def test_hdr_metadata_that_is_not_written_is_noted():
    """libx265 and libsvtav1 write it; after tone mapping there is none to write."""
    lit = source(10, colour=PQ, hdr=HDR(light=(1000, 400)))
    mapped = replace(lit, colour=Colour(transfer=1), tagged=PQ)
    notes = {
        codec: choose("out.mkv", lit, codec=needed(codec)).notes
        for codec in ("libx265", "libsvtav1", "ffv1")
    }

    assert notes["libx265"] == notes["libsvtav1"] == ()
    assert "ffv1 does not write the HDR metadata (light levels)" in notes["ffv1"][0]
    assert "png does not write" in choose("frames", lit).notes[0]
    assert choose("out.mkv", mapped, codec="ffv1").notes == ()
    assert choose("out.mkv", mapped).options["x265-params"] == "log-level=error"


@pytest.mark.parametrize(
    ("codec", "profile"), [("libx264", "H.264 High 4:4:4"), ("libx265", "H.265 Main 4:4:4")]
)
def test_odd_sizes_are_noted(codec, profile):
    """The note says who cannot play the file, and what avoids it."""
    [note] = choose(width=63, codec=codec).notes

    assert "63x48 is odd" in note and profile in note and "--even avoids" in note
    assert choose("out.mkv", width=63, codec="ffv1").notes == ()


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_h265_has_the_tag_that_apple_players_take(tmp_path, suffix):
    """It is hvc1 and never hev1; Matroska has no such tag."""
    write(tmp_path / f"out{suffix}", [picture()] * 4, codec="libx265")

    with av.open(str(tmp_path / f"out{suffix}")) as container:
        tag = container.streams.video[0].codec_context.codec_tag
    assert tag == ("hvc1" if suffix != ".mkv" else "\0\0\0\0")


@pytest.mark.parametrize(
    ("name", "codec", "stored"),
    [
        ("out.mp4", "libx264", "h264"),
        ("out.mkv", "libx265", "hevc"),
        ("out.mp4", "libsvtav1", "av1"),
        ("out.mkv", "libvpx-vp9", "vp9"),
        ("out.mov", "prores_ks", "prores"),
        ("out.mkv", "ffv1", "ffv1"),
        ("out.mp4", "mpeg4", "mpeg4"),
    ],
)
@pytest.mark.parametrize("speed", ["fast", "medium"])
def test_every_encoder_takes_its_options(tmp_path, name, codec, stored, speed):
    """All frames come back from the file, whatever the speed."""
    clip = write(tmp_path / name, [picture()] * 5, codec=needed(codec), speed=speed)

    assert (clip.frames, clip.codec) == (5, stored)


def test_better_quality_makes_larger_files(tmp_path):
    """The value of crf arrives at each encoder that has one."""
    frames = [picture(n / 6) for n in range(6)]
    for codec in ("libx264", "libx265", "libsvtav1", "libvpx-vp9"):
        sizes = []
        for crf in (5, 45):
            write(tmp_path / f"{codec}{crf}.mkv", frames, codec=needed(codec), crf=crf)
            sizes.append((tmp_path / f"{codec}{crf}.mkv").stat().st_size)
        assert sizes[0] > sizes[1], codec


def test_a_refusal_of_the_encoder_is_one_line(tmp_path):
    """It names the size, the pixel format and the options."""
    told = re.escape("libx264 refuses 63x48 yuv420p with preset=faster, crf=17")
    with pytest.raises(OptionError, match=told):
        write(tmp_path / "out.mp4", [picture(width=63)], pixel_format="yuv420p")
    assert not list(tmp_path.iterdir())
