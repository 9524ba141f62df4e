"""The tracks to carry over, and the notes about them, are decided before any work."""

from dataclasses import replace
from fractions import Fraction

import av
import pytest

from tests.support.track_parts import CONTAINERS, carry, sound_clip
from tests.support.video_parts import SIZE, picture
from venhancer.video.carriage import Carriage, CarriedTrack, choose_tracks
from venhancer.video.clip import Track
from venhancer.video.png import encode_png
from venhancer.video.probe import probe


def hows(carriage):
    return [(track.index, track.how) for track in carriage.tracks]


def test_matroska_holds_all_tracks_without_a_note(tmp_path):
    """Both sound tracks, the subtitles, the font and the chapters go into an .mkv as they are."""
    carriage = choose_tracks(probe(CONTAINERS / "tracks.mkv"), tmp_path / "out.mkv")

    assert hows(carriage) == [(1, "copy"), (2, "copy"), (3, "copy"), (4, "attachment")]
    assert carriage.has_chapters
    assert carriage.notes == ()
    assert not list(tmp_path.iterdir())


def test_mp4_names_what_it_changes_and_leaves_out(tmp_path):
    """Styled subtitles become text and the font stays behind; each is one line with a way out."""
    carriage = choose_tracks(probe(CONTAINERS / "tracks.mkv"), tmp_path / "out.mp4")

    assert hows(carriage) == [(1, "copy"), (2, "copy"), (3, "text")]
    assert carriage.has_chapters
    assert carriage.notes == (
        "subtitle track 3 (ass) is rewritten as plain text (mov_text): mp4 cannot hold it; "
        "-o out.mkv keeps it",
        "the attachment font.ttf is left out: mp4 cannot hold it; -o out.mkv keeps it",
        "subtitle track 3 (ass) becomes the default: mp4 always has one; "
        "-o out.mkv keeps it as it is",
    )


def test_avi_names_chapters_and_languages_too(tmp_path):
    """AVI holds sound alone; a name with a space is quoted, so that it can be pasted."""
    carriage = choose_tracks(probe(CONTAINERS / "tracks.mkv"), tmp_path / "my {film}.avi")

    assert hows(carriage) == [(1, "copy"), (2, "copy")]
    assert not carriage.has_chapters
    assert carriage.notes == (
        "subtitle track 3 (ass) is left out: avi cannot hold it; -o 'my {film}.mkv' keeps it",
        "the attachment font.ttf is left out: avi cannot hold it; -o 'my {film}.mkv' keeps it",
        "the chapters are left out: avi cannot hold them; -o 'my {film}.mkv' keeps them",
        "the languages of tracks are left out: avi cannot hold them; -o 'my {film}.mkv' keeps them",
    )


def test_a_folder_of_pictures_names_lost_sound(tmp_path):
    """The note is there only if there is sound or a subtitle to lose."""
    note = (
        "left out: sound, subtitles, attachments and chapters; "
        "a folder of PNG files holds only pictures"
    )

    assert choose_tracks(probe(CONTAINERS / "tracks.mkv"), tmp_path / "out").notes == (note,)
    silent = sound_clip(tmp_path / "in.mkv", "flac")
    with av.open(str(silent)) as source, av.open(str(tmp_path / "video.mkv"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    assert choose_tracks(probe(tmp_path / "video.mkv"), tmp_path / "out").notes == ()


def test_sound_that_mp4_cannot_hold_becomes_aac(tmp_path):
    """Windows Media sound is re-encoded for an MP4, and a note says so."""
    carriage = choose_tracks(probe(CONTAINERS / "wma.wmv"), tmp_path / "out.mp4")

    assert hows(carriage) == [(1, "aac")]
    assert carriage.notes == ("sound track 1 (wmav2) is re-encoded to AAC: mp4 cannot hold it",)


@pytest.mark.parametrize(("audio", "expected"), [("copy", "copy"), ("aac", "aac"), ("none", None)])
def test_the_audio_option_decides_about_sound_alone(tmp_path, audio, expected):
    """Sound is copied, all re-encoded, or left out, as asked: there is nothing to note."""
    carriage = choose_tracks(probe(CONTAINERS / "tracks.mkv"), tmp_path / "out.mkv", audio)

    sound = [] if expected is None else [(1, expected), (2, expected)]
    assert hows(carriage) == [*sound, (3, "copy"), (4, "attachment")]
    assert carriage.notes == ()


def test_tracks_of_a_kind_share_one_line(tmp_path):
    """Two sound tracks that become AAC for the same reason are named together."""
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        video = out.add_stream("mpeg4", rate=24, **SIZE)
        video.pix_fmt = "yuv420p"
        tracks = [out.add_stream(codec, rate=48000, layout="mono") for codec in ("flac", "wavpack")]
        out.start_encoding()
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        out.mux(video.encode())
        for track in tracks:
            frame = av.AudioFrame(track.codec_context.format.name, "mono", 4096)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            out.mux([*track.encode(frame), *track.encode()])

    carriage = choose_tracks(probe(tmp_path / "in.mkv"), tmp_path / "out.mov")

    assert hows(carriage) == [(1, "aac"), (2, "aac")]
    assert carriage.notes == (
        "sound tracks 1, 2 (flac, wavpack) are re-encoded to AAC: mov cannot hold them; "
        "-o out.mkv keeps them",
    )


def test_another_video_track_is_named(tmp_path):
    """Only one video track is enhanced; the other one is not copied."""
    carriage = choose_tracks(
        replace(probe(CONTAINERS / "tracks.mkv"), stream=9), tmp_path / "o.mkv"
    )

    assert carriage.notes == ("video track 0 (h264) is left out: not the one that is enhanced",)


def test_picture_subtitles_go_to_matroska_alone(tmp_path):
    """DVD subtitles are pictures, which no player shows in an MP4."""
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=24, **SIZE)
        video.pix_fmt = "yuv420p"
        out.add_mux_stream("dvd_subtitle")
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        out.mux(video.encode())
    clip = probe(path)

    assert hows(choose_tracks(clip, tmp_path / "out.mkv")) == [(1, "copy")]
    mp4 = choose_tracks(clip, tmp_path / "out.mp4")
    assert mp4.tracks == ()
    assert mp4.notes == (
        "subtitle track 1 (dvd_subtitle) is left out: mp4 cannot hold it; -o out.mkv keeps it",
    )


def test_the_origin_is_the_earliest_track_that_is_kept(tmp_path):
    """Broadcast clocks start anywhere; without its sound the same clip starts with the video."""
    clip = probe(CONTAINERS / "dvb.ts")
    sound = next(track.start for track in clip.tracks if track.kind == "audio")

    assert sound < clip.times[0]
    assert choose_tracks(clip, tmp_path / "out.mp4").origin == sound
    assert choose_tracks(clip, tmp_path / "out.mp4", "none").origin == clip.times[0]


def test_the_origin_is_never_negative(tmp_path):
    """Sound that begins before 0, as encoders write it, does not delay the video."""
    clip = probe(CONTAINERS / "tracks.mkv")
    early = Track(index=1, kind="audio", codec="aac", start=Fraction(-1, 40))

    assert choose_tracks(replace(clip, tracks=(early,)), tmp_path / "out.mp4").origin == 0


def test_avi_says_that_it_holds_no_delay(tmp_path):
    """Sound that starts long after the video would be early in an AVI."""
    clip = probe(sound_clip(tmp_path / "in.mkv", "pcm_s16le", start=Fraction(1, 2)))

    assert choose_tracks(clip, tmp_path / "out.mp4").notes == ()
    assert choose_tracks(clip, tmp_path / "out.avi").notes == (
        "sound track 1 (pcm_s16le) is 0.50 s too early in the output: avi holds no delay; "
        "-o out.mkv keeps it",
    )


def test_the_chapters_track_of_an_mp4_is_no_lost_data(tmp_path):
    """MP4 stores chapters as a track of text, which is carried over as chapters."""
    carry(CONTAINERS / "tracks.mkv", tmp_path / "in.mp4")
    clip = probe(tmp_path / "in.mp4")

    assert "data" in {track.kind for track in clip.tracks}
    assert choose_tracks(clip, tmp_path / "out.mp4").notes == ()


def test_other_data_tracks_are_named(tmp_path):
    """Telemetry and the like has no place in the output."""
    path = tmp_path / "in.ts"
    with av.open(str(path), "w", format="mpegts") as out:
        video = out.add_stream("mpeg2video", rate=24, **SIZE)
        video.pix_fmt = "yuv420p"
        data = out.add_data_stream("klv")
        out.start_encoding()
        for n in range(3):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
            packet = av.Packet(bytes(16))
            packet.stream, packet.time_base = data, Fraction(1, 24)
            packet.pts = packet.dts = n
            out.mux(packet)
        out.mux(video.encode())

    assert choose_tracks(probe(path), tmp_path / "out.mkv").notes == (
        "data track 1 (klv) is left out",
    )


def test_a_folder_as_input_has_nothing_to_carry(tmp_path):
    """Pictures have no tracks."""
    (tmp_path / "1.png").write_bytes(encode_png(picture()))

    assert choose_tracks(probe(tmp_path), tmp_path / "out.mkv") == Carriage()


def test_a_carriage_cannot_be_changed():
    """The plan tells it and the writer carries it out, so both need the same one."""
    with pytest.raises(AttributeError):
        CarriedTrack(index=1, how="copy").how = "aac"
