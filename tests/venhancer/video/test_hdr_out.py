"""HDR metadata: read from frames, and written into files that give the same values back."""

from dataclasses import replace
from enum import Enum
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.support.paths import ROOT
from venhancer.video import hdr
from venhancer.video.clip import HDR, Mastering
from venhancer.video.hdr import dynamic_metadata, read_hdr, svtav1_parameters, x265_parameters
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import open_writer

HDR10 = ROOT / "tests" / "data" / "containers" / "hdr10.mp4"
SIZE = {"width": 96, "height": 64}
PQ = 16
P3 = Mastering(
    red=(Fraction(17, 25), Fraction(8, 25)),
    green=(Fraction(53, 200), Fraction(69, 100)),
    blue=(Fraction(3, 20), Fraction(3, 50)),
    white=(Fraction(3127, 10000), Fraction(329, 1000)),
    darkest=Fraction(1, 10000),
    brightest=Fraction(1000),
)


class Kind(Enum):
    """Names of side data, as PyAV has them."""

    MASTERING_DISPLAY_METADATA = 1
    CONTENT_LIGHT_LEVEL = 2
    DOVI_METADATA = 3
    DOVI_RPU_BUFFER = 4


def frame_with(monkeypatch, side_data):
    monkeypatch.setattr(hdr, "SideDataType", Kind)
    return SimpleNamespace(side_data=side_data)


def first_frame(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def enhanced(target, clip, **options):
    """Write the frames of a clip unchanged."""
    with open_writer(target, **SIZE, fps=clip.fps, source=clip, **options) as writer:
        for frame, time in zip(read_frames(clip), clip.times, strict=True):
            writer.write(frame, time)
    return first_frame(target)


def test_static_metadata_is_read_exactly():
    """The numbers are those that the file was made with."""
    assert read_hdr(first_frame(HDR10)) == HDR(mastering=P3, light=(1000, 400))
    assert dynamic_metadata(first_frame(HDR10)) == ()


@pytest.mark.parametrize(("flags", "is_found"), [((1, 1), True), ((0, 1), False), ((1, 0), False)])
def test_half_a_mastering_display_is_none(monkeypatch, flags, is_found):
    """Without its colours or its luminance, the rest of it means nothing."""
    data = np.array([*([1, 2] * 10), *flags], np.int32).tobytes()
    frame = frame_with(monkeypatch, {Kind.MASTERING_DISPLAY_METADATA: data})

    assert (read_hdr(frame).mastering is not None) is is_found


def test_dynamic_metadata_is_named_once(monkeypatch):
    """Dolby Vision has two kinds of side data; a kind that PyAV does not know is not found."""
    frame = frame_with(monkeypatch, {Kind.DOVI_METADATA: b"", Kind.DOVI_RPU_BUFFER: b""})

    assert dynamic_metadata(frame) == ("Dolby Vision",)
    assert read_hdr(frame) == HDR()


def test_the_parameters_of_both_encoders():
    """x265 counts in HEVC's steps, SVT-AV1 takes decimals."""
    found = HDR(mastering=P3, light=(1000, 400))

    assert x265_parameters(found, PQ) == {
        "master-display": "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)",
        "max-cll": "1000,400",
        "hdr10": "1",
    }
    assert svtav1_parameters(found) == {
        "mastering-display": "G(0.26500,0.69000)B(0.15000,0.06000)R(0.68000,0.32000)"
        "WP(0.31270,0.32900)L(1000.00000,0.00010)",
        "content-light": "1000,400",
    }
    assert x265_parameters(HDR(), 18) == svtav1_parameters(HDR()) == {}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_hdr10_stays_hdr10(tmp_path, suffix):
    """Ten bits, all four tags and the metadata come out as they went in, by default."""
    written = enhanced(tmp_path / f"out{suffix}", probe(HDR10))

    assert written.format.name == "yuv420p10le"
    assert (written.colorspace, written.color_range) == (9, 1)
    assert (written.color_primaries, written.color_trc) == (9, PQ)
    assert read_hdr(written) == HDR(mastering=P3, light=(1000, 400))


def test_av1_keeps_the_metadata_too(tmp_path):
    """Its numbers are rounded to AV1's fixed point."""
    try:
        av.Codec("libsvtav1", "w")
    except ValueError:
        pytest.skip("needs libsvtav1")

    written = enhanced(tmp_path / "out.mp4", probe(HDR10), codec="libsvtav1")

    found = read_hdr(written)
    assert written.format.name == "yuv420p10le"
    assert found.light == (1000, 400)
    assert found.mastering is not None
    assert found.mastering.red == pytest.approx(P3.red, abs=1e-4)
    assert found.mastering.white == pytest.approx(P3.white, abs=1e-4)
    assert found.mastering.brightest == 1000
    assert found.mastering.darkest == pytest.approx(P3.darkest, abs=1e-4)


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_other_encoders_keep_the_tags(tmp_path, codec):
    """They write no metadata, which a note says, but the picture is still tagged as PQ."""
    written = enhanced(tmp_path / "out.mkv", probe(HDR10), codec=codec)

    assert (written.colorspace, written.color_range) == (9, 1)
    assert (written.color_primaries, written.color_trc) == (9, PQ)
    assert read_hdr(written) == HDR()


def test_hlg_stays_hlg(tmp_path):
    """It has a curve of its own and no HDR10 flag."""
    clip = probe(HDR10)
    hlg = replace(clip, colour=replace(clip.colour, transfer=18), hdr=HDR())

    written = enhanced(tmp_path / "out.mp4", hlg)

    assert written.color_trc == 18
    assert read_hdr(written) == HDR()


def test_a_folder_of_png_keeps_the_curve(tmp_path):
    """PNG files of 16 bits are tagged with primaries and curve, so they are read as HDR again."""
    clip = probe(HDR10)
    with open_writer(tmp_path / "out", **SIZE, fps=clip.fps, source=clip) as writer:
        writer.write(next(iter(read_frames(clip))), clip.times[0])

    written = first_frame(tmp_path / "out" / "000001.png")
    assert written.format.name == "rgb48be"
    assert (written.color_primaries, written.color_trc) == (9, PQ)
    assert probe(tmp_path / "out").is_hdr
