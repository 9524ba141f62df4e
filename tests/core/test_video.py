"""What goes into a video file comes out again: pixels, times, colour, sound, subtitles."""

import errno
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from venhancer import video_writer
from venhancer.errors import OptionError, OutputError, ShapeError, VideoError
from venhancer.video import Clip, probe, read_frames
from venhancer.video_writer import check_target, clock_tick, encode_png, open_writer

FPS = Fraction(24)
SIZE = {"width": 64, "height": 48}


def picture(red=0.0, width=64, height=48):
    """A smooth picture with a bright top left corner."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([np.full_like(rows, 255 * red), rows * 120 / height, columns * 120 / width], 2)
    image[: height // 4, : width // 4] = 250
    return image.astype(np.uint8)


def constant(colour, width=64, height=48):
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


def write(path, frames, times=None, fps=FPS, source=None, **options):
    """Write frames through `open_writer`; the size is theirs."""
    height, width = frames[0].shape[:2]
    times = times or [n / fps for n in range(len(frames))]
    with open_writer(path, width=width, height=height, fps=fps, source=source, **options) as writer:
        for frame, time in zip(frames, times, strict=True):
            writer.write(frame, time)
    return probe(path)


def make_clip(path, count=12, sound=False, subtitles=None, rotation=0, tags=(2, 0), **size):
    """A clip made with PyAV alone: tags are (matrix, range), sound starts 0.1 s late."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=24, **(size or SIZE))
        video.pix_fmt = "yuv420p"
        video.codec_context.colorspace, video.codec_context.color_range = tags
        if rotation:
            video.set_display_rotation(rotation)
        tracks = [out.add_stream("aac", rate=16000)] if sound else []
        texts = out.add_mux_stream(subtitles) if subtitles else None
        out.start_encoding()
        for n in range(count):
            image = picture(n / count, video.width, video.height)
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode())
        for track in tracks:
            write_sound(out, track, seconds=count / 24 - 0.1)
        if texts:
            out.mux(text_packet(texts, "<i>Hello</i> there"))
    return path


def write_sound(out, track, seconds):
    rng = np.random.default_rng(1)
    for n in range(int(seconds * 16000 / 1024)):
        data = rng.uniform(-0.1, 0.1, (1, 1024)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(data, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 1600 + n * 1024, Fraction(1, 16000)
        out.mux(track.encode(frame))
    out.mux(track.encode())


def text_packet(stream, text):
    packet = av.Packet(text.encode())
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = 125
    packet.duration = 250
    return packet


def packets(path, kind):
    """(time, bytes) of every packet of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def copy(clip, path, **options):
    frames = list(read_frames(clip))
    return write(path, frames, list(clip.times), clip.fps, clip, **options)


def error_between(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max()


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
    """An untagged source is converted and tagged by its number of lines, whatever comes out."""
    source = probe(make_clip(tmp_path / "in.mp4", 1, width=32, height=height))

    out = write(tmp_path / "out.mp4", [constant((200, 40, 60), 32, 96)], source=source)

    assert source.colour.matrix is None
    assert (out.colour.matrix, out.colour.range) == (matrix, 1)


def test_the_matrix_is_used_when_reading(tmp_path):
    """The same YUV read as bt601 and as bt709 gives different RGB."""
    clips = [probe(make_clip(tmp_path / f"{m}.mp4", 2, tags=(m, 1))) for m in (1, 6)]

    images = [list(read_frames(clip))[1] for clip in clips]

    assert error_between(*images) > 10


def test_ten_bit_video_is_read_as_eight(tmp_path):
    """HDR and 10-bit sources give 8-bit RGB by their own matrix, and their tags are kept."""
    with av.open(str(tmp_path / "in.mp4"), "w") as out:
        video = out.add_stream("libx265", rate=24, options={"x265-params": "log-level=none"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p10le"
        video.codec_context.colorspace, video.codec_context.color_range = 9, 1
        video.codec_context.color_primaries, video.codec_context.color_trc = 9, 16
        ramp = av.VideoFrame.from_ndarray(constant((200, 40, 60), 64, 64), format="rgb24")
        out.mux(video.encode(ramp.reformat(format="yuv420p10le", dst_colorspace=9)))
        out.mux(video.encode())
    clip = probe(tmp_path / "in.mp4")

    result = copy(clip, tmp_path / "out.mp4")

    assert (clip.pixel_format, result.pixel_format) == ("yuv420p10le", "yuv420p")
    assert error_between(next(read_frames(clip)), constant((200, 40, 60), 64, 64)) <= 3
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
    """The display matrix is applied to size and pixels, and is not left in the output."""
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
    """Uneven times, not starting at 0, come back to less than 1 ms, the end too."""
    times = [Fraction(t, 1000) for t in (500, 533, 600, 613, 900, 1000, 1501)]
    frames = [picture(n / 7) for n in range(7)]

    out = write(tmp_path / f"out{suffix}", frames, times, fps=Fraction(30))

    assert out.is_variable
    assert out.frames == 7
    assert all(abs(a - b) < Fraction(1, 1000) for a, b in zip(out.times, times, strict=True))
    assert abs(out.end - times[-1] - Fraction(1, 30)) < Fraction(2, 1000)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60)])
def test_constant_frame_rate_is_exact_over_300_frames(tmp_path, fps):
    """The last of 300 frames is where the first says, to the tick."""
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
    """Whatever can be exact below a million ticks a second is exact."""
    tick = clock_tick(Fraction(24000, 1001), (Fraction(1, 90000), Fraction(7, 12288)))
    assert clock_tick(Fraction(24000, 1001), (Fraction(1, 90000),)).denominator % 90000 == 0
    assert tick <= Fraction(1, 100_000)


def test_a_single_frame_is_a_clip(tmp_path):
    """One frame, one time, the nominal rate."""
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


# --- sound and subtitles ------------------------------------------------------------------------


@pytest.mark.parametrize("source", [".mp4", ".mkv"])
@pytest.mark.parametrize("target", [".mp4", ".mkv", ".mov"])
def test_sound_is_copied_bit_for_bit_and_in_sync(tmp_path, source, target):
    """The same packets at the same times; the frames too."""
    clip = probe(make_clip(tmp_path / f"in{source}", 24, sound=True))

    out = copy(clip, tmp_path / f"out{target}")

    before, after = packets(clip.path, "audio"), packets(out.path, "audio")
    assert clip.audio == out.audio == "aac"
    assert [data for _, data in before] == [data for _, data in after]
    assert all(abs(a[0] - b[0]) <= Fraction(1, 1000) for a, b in zip(before, after, strict=True))
    assert all(abs(a - b) < Fraction(1, 1000) for a, b in zip(clip.times, out.times, strict=True))
    assert abs(clip.end - out.end) < 1 / clip.fps


def test_subtitles_are_copied(tmp_path):
    """Matroska to Matroska: the same text at the same time."""
    clip = probe(make_clip(tmp_path / "in.mkv", subtitles="subrip"))

    out = copy(clip, tmp_path / "out.mkv")

    assert clip.subtitles == out.subtitles == ("subrip",)
    assert packets(clip.path, "subtitles") == packets(out.path, "subtitles")


def test_subtitles_become_mov_text_in_mp4_and_back(tmp_path):
    """MP4 takes the words without their markup; from there they can return to Matroska."""
    clip = probe(make_clip(tmp_path / "in.mkv", subtitles="subrip"))

    mp4 = copy(clip, tmp_path / "out.mp4")
    mkv = copy(mp4, tmp_path / "back.mkv")

    assert (mp4.subtitles, mkv.subtitles) == (("mov_text",), ("subrip",))
    assert (Fraction(1, 8), b"Hello there") in packets(mkv.path, "subtitles")


def test_a_track_the_container_cannot_hold_is_warned_about(tmp_path, caplog):
    """Subtitles into AVI: one clear line, and the video is there."""
    clip = probe(make_clip(tmp_path / "in.mkv", subtitles="subrip"))

    out = copy(clip, tmp_path / "out.avi")

    assert out.frames == clip.frames
    assert "subtitle (subrip) is left out: avi cannot hold it" in caplog.text


@pytest.mark.parametrize(
    ("codec", "suffix", "is_kept"),
    [("pcm_s16le", ".mp4", True), ("flac", ".mov", False), ("libopus", ".mkv", True)],
)
def test_a_sound_codec_is_copied_or_left_out_never_fatal(tmp_path, codec, suffix, is_kept, caplog):
    """A container that refuses a codec only when it is closed costs the sound, not the video."""
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
    clip = probe(tmp_path / "frames", Fraction(25))

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


# --- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_cut_short_gives_what_it_has(tmp_path, suffix):
    """The probe says how much is there, and exactly that can be read."""
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
    """Missing, text, noise, an index cut off, sound only, an empty folder."""
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
    """A stream is not enough."""
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
    """Refused before any work; replaced only when allowed."""
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
    """Overwriting is for frames we could have written, not for somebody's documents."""
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
    """Whatever ends the work early, no file and no folder is left."""
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
    """One clear line, nothing left behind."""
    link = tmp_path / ".full.mkv"
    link.symlink_to("/dev/full")
    monkeypatch.setattr(video_writer, "hidden_name", lambda path: link)

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
    """One line naming what was found, nothing written."""
    with pytest.raises(OptionError, match=message):
        open_writer(tmp_path / "out.mp4", **{**SIZE, **options}, fps=FPS, source=None)
    assert not list(tmp_path.iterdir())


def test_other_encoders_can_be_named(tmp_path):
    """H.265 and MPEG-4 work as H.264 does."""
    for codec, found in {"libx265": "hevc", "mpeg4": "mpeg4"}.items():
        out = write(tmp_path / f"{codec}.mp4", [picture()] * 3, codec=codec)
        assert (out.codec, out.frames) == (found, 3)


def test_frames_of_another_size_or_out_of_order_are_refused(tmp_path):
    """Mistakes of the caller do not become a broken file."""
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
        end=Fraction(2), codec="h264", pixel_format="yuv420p", colour=video_writer.Colour(),
    )  # fmt: skip

    assert (clip.frames, clip.duration) == (2, 1)
