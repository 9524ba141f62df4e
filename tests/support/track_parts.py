"""Clips with sound of many codecs, copies of tracks without the video, and what a file holds."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.support.paths import ROOT
from tests.support.video_parts import SIZE, picture
from venhancer.video.carriage import choose_tracks
from venhancer.video.probe import probe
from venhancer.video.tracks import TrackCopier

CONTAINERS = ROOT / "tests" / "data" / "containers"
BLOCK = 1024  # samples of a frame that is given to an encoder


def carry(source, target, audio="copy"):
    """Write small frames at the clip's times, with its tracks; return the Carriage."""
    clip = probe(source)
    carriage = choose_tracks(clip, target, audio)
    is_avi = target.suffix == ".avi"
    options = {"avoid_negative_ts": "disabled"} if target.suffix == ".mkv" else {}
    tick = 1 / clip.fps if is_avi else Fraction(1, 90000)
    with av.open(str(target), "w", container_options=options) as out:
        video = out.add_stream("libx264", rate=clip.fps, time_base=tick, **SIZE)
        video.pix_fmt, video.options = "yuv420p", {"tune": "zerolatency"}
        copier = TrackCopier(clip.path, out, carriage)
        out.start_encoding()
        for number, time in enumerate(clip.times):
            frame = av.VideoFrame.from_ndarray(picture(), format="rgb24")
            stamp = number if is_avi else round((time - carriage.origin) / tick)
            frame.pts, frame.time_base = stamp, tick
            out.mux(video.encode(frame))
            copier.pump(time - carriage.origin)
        out.mux(video.encode())
        copier.pump()
        copier.close()
    return carriage


def sound_clip(path, codec, *, rate=48000, layout="stereo", blocks=40, start=0, format=None):
    """Make a clip of one second with random sound that starts at `start` seconds."""
    with av.open(str(path), "w", format=format) as out:
        video = out.add_stream("mpeg4", rate=24, **SIZE)
        video.pix_fmt = "yuv420p"
        track = out.add_stream(codec, rate=rate, layout=layout)
        track.metadata["language"] = "fra"
        for _ in range(24):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        out.mux(video.encode())
        rng = np.random.default_rng(1)
        for n in range(blocks):
            shape = (track.codec_context.layout.nb_channels, BLOCK)
            data = rng.uniform(-0.1, 0.1, shape).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(data, format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(start * rate) + n * BLOCK
            out.mux(track.encode(frame))
        out.mux(track.encode())
    return Path(path)


def packet_times(path, kind="audio", number=0):
    """List (seconds, bytes) of the packets of a track that players show."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[number]
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        return [(p.pts * p.time_base, bytes(p)) for p in packets]


def heard(path, number=0):
    """Decode a sound track: (first time, samples of each channel, rate, layout)."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=number))
        start = frames[0].pts * frames[0].time_base
        samples = sum(frame.samples for frame in frames)
        return start, samples, frames[0].sample_rate, frames[0].layout.name


def sounds(path):
    """List (codec, language, title, disposition) of the sound tracks."""
    with av.open(str(path)) as container:
        return [
            (
                s.codec_context.codec.canonical_name,
                s.metadata.get("language"),
                s.metadata.get("title") or s.metadata.get("name"),
                int(s.disposition),
            )
            for s in container.streams.audio
        ]


def first_frame_time(path):
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.pts * frame.time_base
