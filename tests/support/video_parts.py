"""Clips with sound, subtitles, rotation and tags, and functions to inspect the results."""

from fractions import Fraction

import av
import numpy as np

from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import open_writer

FPS = Fraction(24)
SIZE = {"width": 64, "height": 48}


def picture(red=0.0, width=64, height=48):
    """Make a smooth picture with a bright top left corner."""
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
    """Make a clip with PyAV alone: tags are (matrix, range), sound starts 0.1 s late."""
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
    """Return (time, bytes) of every packet of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def copy(clip, path, **options):
    frames = list(read_frames(clip))
    return write(path, frames, list(clip.times), clip.fps, clip, **options)


def error_between(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max()
