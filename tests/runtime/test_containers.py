"""Files from phones, broadcasts and screen recorders, through the command, without a network."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.identity import without_networks
from tests.support.paths import CONTAINERS
from venhancer.video.clip import Clip
from venhancer.video.probe import probe
from venhancer.video.reading import read_alpha, read_frames
from venhancer_rt.cli import main

MS = Fraction(1, 1000)


def enhanced(tmp_path: Path, name: str, suffix: str, *options: str) -> Clip:
    """Copy a file through the command, and probe the result."""
    target = tmp_path / f"out{suffix}"
    code = main(["enhance", str(CONTAINERS / name), "-o", str(target), "--scale", "1", *options])
    assert code == 0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    return probe(target)


def sound_of(path: Path) -> list[Fraction]:
    """List the times of the packets of the first sound track."""
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[0])
        return [p.pts * p.time_base for p in packets if p.size and p.pts is not None]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames come out as they went in."""
    without_networks(monkeypatch)


# --- tracks and times ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("name", ["restart.ts", "forward.ts"])
def test_a_clock_that_jumps_goes_on_in_the_output(
    tmp_path: Path, name: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """2.04 s of picture and sound, in sync, from 0; the jump is told before the work."""
    clip = enhanced(tmp_path, name, suffix)

    sound = sound_of(clip.path)
    assert (clip.frames, clip.duration) == (48, 2)
    assert abs(clip.times[0] - Fraction(11, 1000)) <= 2 * MS  # the sound begins first, at 0
    assert abs(sound[0]) <= MS
    assert len(sound) == 78
    assert sound[-1] == pytest.approx(1.9927, abs=0.003)
    assert max(b - a for a, b in pairwise(sound)) < Fraction(3, 100)
    assert "clock of the input jumps" in capsys.readouterr().out


def test_a_broadcast_begins_at_0(tmp_path: Path) -> None:
    """Its clock started at 12346 s; the distance of sound and picture stays."""
    clip = enhanced(tmp_path, "dvb.ts", ".mp4")

    sound = sound_of(clip.path)
    assert abs(sound[0]) <= MS
    assert abs(clip.times[0] - Fraction(11, 1000)) <= MS  # as far from the sound as before
    assert abs(clip.duration - Fraction(4, 5)) <= MS


def test_late_sound_stays_late(tmp_path: Path) -> None:
    """The packet that is stamped early does not end the sound."""
    clip = enhanced(tmp_path, "backstep.flv", ".mp4")

    sound = sound_of(clip.path)
    assert len(sound) == 88
    assert sound[-1] > 2
    assert abs(clip.times[0] - Fraction(23, 1000)) <= MS


def test_all_tracks_are_carried(tmp_path: Path) -> None:
    """Both sound tracks, subtitles, chapters, font and title."""
    clip = enhanced(tmp_path, "tracks.mkv", ".mkv")

    with av.open(str(clip.path)) as container:
        assert [s.language for s in container.streams.audio] == ["eng", "deu"]
        assert len(container.streams.subtitles) == 1
        assert [c["metadata"]["title"] for c in container.chapters()] == ["One", "Two"]
        assert container.metadata["title"] == "Holiday 1999"
        kinds = [s.type for s in container.streams]
    assert kinds.count("attachment") == 1


@pytest.mark.parametrize(
    ("suffix", "options", "codec"),
    [(".mp4", (), "aac"), (".mp4", ("--audio", "none"), None), (".mov", ("--audio", "aac"), "aac")],
)
def test_sound_that_the_output_cannot_hold(
    tmp_path: Path, suffix: str, options: tuple[str, ...], codec: str | None
) -> None:
    """WMA becomes AAC, or is left out where that is asked for."""
    assert enhanced(tmp_path, "wma.wmv", suffix, *options).audio == codec


def test_a_film_keeps_its_steady_rate(tmp_path: Path) -> None:
    """Stamps in whole milliseconds come out as 1001/24000 s each."""
    clip = enhanced(tmp_path, "23976.mkv", ".mp4")

    assert clip.fps == Fraction(24000, 1001)
    assert set(np.diff(clip.times)) == {Fraction(1001, 24000)}
    assert clip.duration == 24 * Fraction(1001, 24000)


def test_a_constant_rate_lasts_to_the_end(tmp_path: Path) -> None:
    """24 frames a second of a clip of 12 a second: each lasts 1/24 s, one second in all."""
    clip = enhanced(tmp_path, "hdr10.mp4", ".mp4", "--fps", "24")

    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        lengths = {p.duration * p.time_base for p in container.demux(stream) if p.size}
        assert stream.average_rate == 24
    assert lengths == {Fraction(1, 24)}
    assert (clip.frames, clip.duration) == (24, 1)


def test_a_screen_recording_at_60_frames_a_second(tmp_path: Path) -> None:
    """Pauses hold the frame before them, bursts are interpolated."""
    clip = enhanced(tmp_path, "screen.mkv", ".mp4", "--fps", "60", "--crf", "0")

    frames = list(read_frames(clip))
    held = [frame for time, frame in zip(clip.times, frames, strict=True) if 0.1 < time < 2.08]
    assert abs(clip.duration - Fraction(3704, 1000)) <= Fraction(1, 120)
    assert clip.fps == 60
    assert max(np.abs(frame.astype(int) - held[0]).max() for frame in held) <= 1
    assert np.abs(held[-1].astype(int) - frames[round(2.12 * 60)]).max() > 20


def test_avi_gets_a_constant_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It numbers its frames: at the rate of the bursts, they are repeated through pauses."""
    before, after = probe(CONTAINERS / "screen.mkv"), enhanced(tmp_path, "screen.mkv", ".avi")

    shown = list(read_frames(after))
    assert (after.fps, after.is_variable) == (30, False)
    assert abs(after.duration - before.duration) <= Fraction(1, 30)
    for time, frame in zip(before.times, read_frames(before), strict=True):
        assert np.abs(shown[round(30 * time)].astype(int) - frame).mean() < 8
    assert "AVI has a constant rate" in capsys.readouterr().out


def test_damage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The number of frames with gaps is in the plan."""
    enhanced(tmp_path, "corrupt.mkv", ".mp4")

    assert "frames with gaps: 1" in capsys.readouterr().out


def test_the_cut_of_an_edit_list_stays(tmp_path: Path) -> None:
    """The sound that a player does not play does not come back."""
    clip = enhanced(tmp_path, "editlist.mp4", ".mkv")

    sound = sound_of(clip.path)
    assert clip.duration == pytest.approx(26 / 24, abs=0.002)
    assert len(sound) <= 49
    assert min(sound) > Fraction(-1, 20)


# --- pixels -------------------------------------------------------------------------------------


def test_hdr_stays_hdr(tmp_path: Path) -> None:
    """10 bits, tags, mastering display and light levels; hvc1 for Apple's players."""
    before, after = probe(CONTAINERS / "hdr10.mp4"), enhanced(tmp_path, "hdr10.mp4", ".mp4")

    assert (after.codec, after.pixel_format) == ("hevc", "yuv420p10le")
    assert (after.colour, after.hdr) == (before.colour, before.hdr)
    with av.open(str(after.path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    difference = [
        np.abs(a.astype(int) - b).mean()
        for a, b in zip(read_frames(before), read_frames(after), strict=True)
    ]
    assert max(difference) < 3 * 64  # three codes of 10 bits, after encoding at crf 17


def test_hdr_can_become_sdr(tmp_path: Path) -> None:
    """8 bits of H.264 with the tags of BT.709, and no HDR metadata."""
    clip = enhanced(tmp_path, "hdr10.mp4", ".mp4", "--hdr", "sdr")

    assert (clip.codec, clip.pixel_format) == ("h264", "yuv420p")
    assert (clip.colour.transfer, clip.colour.primaries, clip.colour.matrix) == (1, 1, 1)
    assert clip.hdr.light is None


def test_alpha_is_kept_where_it_can_be(tmp_path: Path) -> None:
    """ProRes 4444 in MOV by default; levels of alpha stay."""
    before, after = probe(CONTAINERS / "alpha.mov"), enhanced(tmp_path, "alpha.mov", ".mov")

    assert after.codec == "prores"
    assert after.has_alpha
    for a, b in zip(read_alpha(before), read_alpha(after), strict=True):
        assert np.abs(a.astype(int) - b).mean() < 65535 / 1023


def test_alpha_is_put_over_black_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MP4 cannot hold it, which is told; hidden colours are not shown."""
    source = probe(CONTAINERS / "apng.png")
    clip = enhanced(tmp_path, "apng.png", ".mp4", "--crf", "1")

    hidden = next(read_alpha(source)) == 0
    assert next(read_frames(clip))[hidden].mean() < 8
    assert "the picture is put over black" in capsys.readouterr().out


def test_grey_video_keeps_its_levels(tmp_path: Path) -> None:
    """16 to 235 in, 16 to 235 out, with the limited range as a tag."""
    clip = enhanced(tmp_path, "grayhevc.mp4", ".mp4", "--crf", "0")

    with av.open(str(CONTAINERS / "grayhevc.mp4")) as a, av.open(str(clip.path)) as b:
        grey, made = (next(it.decode(video=0)) for it in (a, b))
        luma = [np.frombuffer(f.planes[0], np.uint8).reshape(64, -1)[:, :96] for f in (grey, made)]
        assert made.color_range == 1
    kept = np.clip(luma[0].astype(int), 16, 235)
    assert np.abs(luma[1] - kept).mean() <= 1


def test_pictures_become_video_of_the_limited_range(tmp_path: Path) -> None:
    """A PNG gives yuv420p with the limited range, not yuvj420p."""
    clip = enhanced(tmp_path, "apng.png", ".mp4")

    assert (clip.pixel_format, clip.colour.range) == ("yuv420p", 1)


def test_an_odd_size_can_be_made_even(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exact size is 4:4:4, which is told; --even avoids it."""
    source = str(CONTAINERS / "odd.mp4")
    main(["plan", source, "--size", "101x67"])
    assert "do not play: --even avoids that" in capsys.readouterr().out

    main(["plan", source, "--scale", "1.5", "--even"])
    told = capsys.readouterr().out
    assert "output   150x100" in told
    assert "yuv420p" in told


def test_interlaced_video_is_deinterlaced(tmp_path: Path) -> None:
    """The output is progressive; `double` has 50 frames a second."""
    assert enhanced(tmp_path, "bar.mp4", ".mp4").frames == 12
    assert not probe(tmp_path / "out.mp4").is_interlaced
    (tmp_path / "out.mp4").unlink()
    double = enhanced(tmp_path, "bar.mp4", ".mp4", "--deinterlace", "double")
    assert (double.frames, double.fps) == (24, 50)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("options", [("--interpolate", "3"), ("--interpolate", "2")])
def test_the_last_frame_lasts_as_long_as_in_the_input(
    tmp_path: Path, suffix: str, options: tuple[str, ...]
) -> None:
    """The track ends with the source, also where frames are stored in another order."""
    clip = enhanced(tmp_path, "hdr10.mp4", suffix, "--codec", "libx264", *options)

    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        length = stream.duration and stream.duration * stream.time_base
        length = length or Fraction(container.duration or 0, av.time_base)
    assert abs(length - 1) <= 2 * MS


def test_the_comparison_cannot_be_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This is refused before the work."""
    target = str(tmp_path / "out.mkv")
    source = str(CONTAINERS / "hdr10.mp4")
    for other in (target, source):
        options = ["--compare", other, "--overwrite", "--scale", "1"]
        assert main(["enhance", source, "-o", target, *options]) == 2
    assert "is the input or output: choose another" in capsys.readouterr().err


def test_a_codec_that_the_container_refuses_late_is_refused_by_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MOV takes a stream of AV1, but not its header."""
    target = str(tmp_path / "out.mov")
    source = str(CONTAINERS / "hdr10.mp4")
    assert main(["plan", source, "-o", target, "--codec", "libsvtav1"]) == 2
    assert "cannot be written to .mov" in capsys.readouterr().err


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/a.mp4", "is an address"),
        (str(CONTAINERS / "anim.webp"), "animated WebP"),
        ("list.mp4", "is a playlist"),
    ],
)
def test_what_is_not_opened_is_refused_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    message: str,
) -> None:
    """Exit code 2, one line, nothing left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.mp4").write_text("#EXTM3U\nother.ts\n")

    assert main(["enhance", source, "-o", str(tmp_path / "out.mp4")]) == 2

    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["list.mp4"]
