"""Sound, subtitles and folders of pictures are carried over."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.support.track_parts import (
    CONTAINERS,
    carry,
    first_frame_time,
    heard,
    packet_times,
    sound_clip,
    sounds,
)
from tests.support.video_parts import (
    FPS,
    SIZE,
    constant,
    copy,
    make_clip,
    packets,
    picture,
    text_packet,
    write,
)
from venhancer.errors import OptionError, VideoError
from venhancer.video.clip import Reading
from venhancer.video.png import encode_png
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.tracks import _Track
from venhancer.video.writer import open_writer

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


def test_what_avi_cannot_hold_is_left_out(tmp_path):
    """Subtitles do not go into AVI, and the video is written."""
    clip = probe(make_clip(tmp_path / "in.mkv", subtitles="subrip"))

    out = copy(clip, tmp_path / "out.avi")

    assert (out.frames, out.subtitles) == (clip.frames, ())


@pytest.mark.parametrize(
    ("codec", "suffix", "expected"),
    [("pcm_s16le", ".mp4", "pcm_s16le"), ("flac", ".mov", "aac"), ("libopus", ".mkv", "opus")],
)
def test_a_sound_codec_is_copied_or_re_encoded_never_fatal(tmp_path, codec, suffix, expected):
    """If a container refuses a codec, even only on closing, the sound becomes AAC."""
    clip = probe(sound_clip(tmp_path / "in.mkv", codec))

    out = copy(clip, tmp_path / f"out{suffix}")

    assert (out.frames, out.audio) == (24, expected)


def test_all_tracks_go_into_matroska_with_what_they_say_of_themselves(tmp_path):
    """Both sound tracks with language, title and flags, styled subtitles, font and chapters."""
    source, target = CONTAINERS / "tracks.mkv", tmp_path / "out.mkv"

    carry(source, target)

    assert sounds(target) == [("aac", "eng", "Main", 1), ("aac", "deu", "Commentary", 0)]
    for number in (0, 1):
        assert packet_times(target, number=number) == packet_times(source, number=number)
    assert packet_times(target, "subtitles") == packet_times(source, "subtitles")
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert after.streams[3].codec_context.extradata == before.streams[3].codec_context.extradata
        assert after.streams.attachments[0].data == before.streams.attachments[0].data
        assert after.streams.attachments[0].name == "font.ttf"
        assert after.streams.attachments[0].mimetype == "application/x-truetype-font"
        assert after.chapters() == before.chapters()
        kept = {"title": "Holiday 1999", "ARTIST": "Tester", "DATE": "1999-07-04"}
        assert {k: v for k, v in after.metadata.items() if k != "ENCODER"} == kept


def test_mov_gets_the_languages_in_its_own_codes(tmp_path):
    """German is ger there, not deu, which FFmpeg would leave out."""
    carry(CONTAINERS / "tracks.mkv", tmp_path / "out.mov")

    assert [language for _, language, *_ in sounds(tmp_path / "out.mov")] == ["eng", "ger"]


def test_all_sound_goes_into_mp4_and_back_with_its_names(tmp_path):
    """MP4 keeps languages, titles, flags, chapters and metadata, and Matroska gets them back."""
    mp4, mkv = tmp_path / "out.mp4", tmp_path / "back.mkv"

    carry(CONTAINERS / "tracks.mkv", mp4)
    carry(mp4, mkv)

    expected = [("aac", "eng", "Main", 1), ("aac", "deu", "Commentary", 0)]
    for path in (mp4, mkv):
        assert sounds(path) == expected
        assert [len(packet_times(path, number=n)) for n in (0, 1)] == [45, 45]
        with av.open(str(path)) as container:
            chapters = container.chapters()
            metadata = {key.lower(): text for key, text in container.metadata.items()}
        ends = [(c["metadata"]["title"], c["end"] * c["time_base"]) for c in chapters]
        assert ends == [("One", Fraction(1, 2)), ("Two", 1)]
        assert (metadata["title"], metadata["artist"]) == ("Holiday 1999", "Tester")
        assert metadata["date"] == "1999-07-04"
    assert [text for _, text in packet_times(mp4, "subtitles")][-1][2:] == b"Hello"
    with av.open(str(mkv)) as container:
        assert "handler_name" not in container.streams.audio[0].metadata
        assert "major_brand" not in container.metadata


def test_flags_and_the_videos_metadata_are_kept(tmp_path):
    """Forced and hearing-impaired tracks stay so; the video keeps language, title, time code."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    flags = Disposition.forced | Disposition.hearing_impaired
    with av.open(str(source), "w") as out:
        out.metadata["creation_time"] = "2020-01-02T03:04:05.000000Z"
        video = out.add_stream("libx264", rate=24, **SIZE)
        words = {"language": "jpn", "title": "Cut 2", "timecode": "01:00:00:00", "rotate": "90"}
        video.metadata.update(words)
        texts = out.add_mux_stream("subrip")
        texts.disposition = flags
        out.start_encoding()
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        out.mux(video.encode())
        out.mux(text_packet(texts, "Hello"))

    carry(source, target)

    with av.open(str(target)) as container:
        assert container.streams.subtitles[0].disposition == flags
        assert container.metadata["creation_time"].startswith("2020-01-02T03:04:05")
        found = {k.lower(): v for k, v in container.streams.video[0].metadata.items()}
    assert found.pop("duration") != ""
    del words["rotate"]
    assert found == words


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_one_early_packet_does_not_end_the_sound(tmp_path, suffix):
    """A packet stamped 60 ms early moves behind the one before; all 88 are there, to the end."""
    target = tmp_path / f"out{suffix}"

    carry(CONTAINERS / "backstep.flv", target)

    before, after = packet_times(CONTAINERS / "backstep.flv"), packet_times(target)
    assert [data for _, data in after] == [data for _, data in before]
    assert len(after) == 88
    times = [time for time, _ in after]
    assert all(a < b for a, b in pairwise(times))
    late = [abs(a - b) > Fraction(1, 500) for (a, _), (b, _) in zip(before, after, strict=True)]
    assert [n for n, is_late in enumerate(late) if is_late] == [29]
    assert heard(target)[0] == 0
    assert float(times[-1] + Fraction(1024, 44100)) == pytest.approx(2.04, abs=0.01)


def test_packets_that_the_muxer_refuses_are_counted(tmp_path, caplog, monkeypatch):
    """The rest of the sound is written, and one line tells how many packets are missing."""
    monkeypatch.setattr(_Track, "last", property(lambda self: None, lambda self, value: None))

    carry(CONTAINERS / "backstep.flv", tmp_path / "out.mp4")

    assert len(packet_times(tmp_path / "out.mp4")) == 87
    lines = [r.getMessage() for r in caplog.records if r.name == "venhancer.video.tracks"]
    assert lines == ["packets of copied tracks that mp4 refuses: 1"]


@pytest.mark.parametrize(
    ("suffix", "start", "packets"), [(".mp4", 0, 49), (".mkv", -0.0176, 49), (".avi", 0, 48)]
)
def test_sound_that_was_cut_away_does_not_come_back(tmp_path, suffix, start, packets):
    """The edit list hides 0.92 s of sound; MP4 still hides it, the others do not get it."""
    target = tmp_path / f"out{suffix}"

    carry(CONTAINERS / "editlist.mp4", target)

    shown = packet_times(target)
    assert [data for _, data in shown] == [
        data for _, data in packet_times(CONTAINERS / "editlist.mp4")
    ][-packets:]
    assert float(heard(target)[0]) == pytest.approx(start, abs=0.001)
    assert float(heard(target)[1] / 44100) == pytest.approx(1.12, abs=0.024)
    with av.open(str(target)) as container:
        assert container.duration / av.time_base == pytest.approx(1.1, abs=0.02)


def test_the_priming_of_a_codec_is_no_cut(tmp_path):
    """One AAC packet before 0 starts the decoder: Matroska gets it too, before 0."""
    source = sound_clip(tmp_path / "in.mp4", "aac")

    carry(source, tmp_path / "out.mkv")

    with av.open(str(source)) as container:
        before = [bytes(p) for p in container.demux(audio=0) if p.size]
    after = packet_times(tmp_path / "out.mkv")
    assert [data for _, data in after] == before
    assert float(after[0][0]) == pytest.approx(-1024 / 48000, abs=0.001)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_output_starts_at_0_and_stays_in_sync(tmp_path, suffix):
    """A broadcast clock of 12346 s is taken away, from sound and video alike."""
    source, target = CONTAINERS / "dvb.ts", tmp_path / f"out{suffix}"

    carry(source, target)

    clip = probe(source)
    lead = clip.times[0] - packet_times(source)[0][0]
    assert heard(target)[0] == 0
    assert float(first_frame_time(target)) == pytest.approx(float(lead), abs=0.001)
    assert len(packet_times(target)) == 31
    with av.open(str(target)) as container:
        assert container.duration / av.time_base == pytest.approx(0.81, abs=0.01)


def test_chapters_move_with_the_origin(tmp_path):
    """A chapter that ends before the origin is gone, one that began before it starts at 0."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(source), "w", container_options={"avoid_negative_ts": "disabled"}) as out:
        video = out.add_stream("libx264", rate=24, **SIZE)
        spans = [("gone", 0, 50), ("cut", 50, 150), ("whole", 150, 200)]
        tick = Fraction(1, 100)
        out.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": tick, "metadata": {"title": title}}
                for n, (title, a, b) in enumerate(spans, 1)
            ]
        )
        for n in range(24):
            frame = av.VideoFrame.from_ndarray(picture(), format="rgb24")
            frame.pts, frame.time_base = 24 + n, Fraction(1, 24)
            out.mux(video.encode(frame))
        out.mux(video.encode())

    carriage = carry(source, target)

    assert carriage.origin == 1
    with av.open(str(target)) as container:
        found = [
            (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"])
            for c in container.chapters()
        ]
    assert found == [("cut", 0, Fraction(1, 2)), ("whole", Fraction(1, 2), 1)]


def test_no_sound_is_written_where_none_is_asked_for(tmp_path):
    """`none` leaves subtitles and chapters as they are."""
    carry(CONTAINERS / "tracks.mkv", tmp_path / "out.mkv", "none")

    out = probe(tmp_path / "out.mkv")
    assert (out.audio, out.subtitles) == (None, ("ass",))


def test_sound_is_written_beside_the_video_not_at_its_end(tmp_path):
    """Packets are interleaved, so little memory is taken however long the video is."""
    carry(CONTAINERS / "tracks.mkv", tmp_path / "out.mkv")

    with av.open(str(tmp_path / "out.mkv")) as container:
        order = [(p.stream.type, p.pts * p.time_base) for p in container.demux() if p.size]
    latest = max_lag(order)
    assert latest < Fraction(1, 5)


def max_lag(order):
    """Find the longest time by which a packet comes later than one of another stream."""
    newest, lag = Fraction(0), Fraction(0)
    for _, time in order:
        newest = max(newest, time)
        lag = max(lag, newest - time)
    return lag


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
