"""Cutting of one film into clips: between scene cuts, filtered, and re-encoded.

Every scene is divided into pieces of at most `max_seconds`; a remainder shorter than `min_seconds`
is left out. Frames are dropped to training's frame rate; sizes stay. A clip has a video keyframe
every second, so that a loader can start anywhere in it at little cost.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from venhancer.errors import OptionError, VideoError
from venhancer.training.config import TrainingConfig
from venhancer.training.data.clip_filters import Watch
from venhancer.training.data.media import (
    BROKEN_VIDEO,
    Seconds,
    frame_step,
    frames_between,
    upright_size,
)
from venhancer.training.prepare.shard_writer import LeftOut
from venhancer.video.clip import Clip
from venhancer.video.colour import Colour, found_colour
from venhancer.video.probe import probe
from venhancer.video.rgb import RGBReader
from venhancer.video.streams import video_stream
from venhancer.video.yuv import YUVMaker

CRF = 17  # of x264: hardly distinguishable from the source
KEYFRAME_SECONDS = 1.0
MIN_SECONDS, MAX_SECONDS = 2.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Rules for clips; all shards of a folder follow the same rules."""

    preset: str
    min_seconds: float = MIN_SECONDS
    max_seconds: float = MAX_SECONDS
    min_size: tuple[int, int]  # width, height
    fps: float  # frames of faster films are dropped to reach about this
    min_frames: int  # after dropping
    latents: int = 0  # degraded versions stored as latents, beside the truth

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds <= self.max_seconds:
            raise OptionError(
                f"clips of {self.min_seconds:g} to {self.max_seconds:g} s: the first must be "
                "above 0 and at most the second"
            )

    @classmethod
    def of(cls, preset: str, config: TrainingConfig, **chosen: Any) -> Rules:
        """Make the rules that suit a training run, with the changes in `chosen`."""
        suited = {"min_size": config.crop, "fps": config.fps, "min_frames": config.longest}
        return cls(preset=preset, **{**suited, **chosen})


@dataclass(frozen=True, slots=True)
class Film:
    """A video file, and the spans of it that are wanted, with their captions."""

    path: Path
    wanted: tuple[tuple[Seconds, str], ...]

    @property
    def name(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Piece:
    """Seconds of a film, on its stream's clock, that may become a clip."""

    film: str
    path: Path
    start: float
    end: float
    caption: str


@dataclass(frozen=True, slots=True)
class FilmPlan:
    """The pieces of a film, and its parts that are left out."""

    film: str
    pieces: tuple[Piece, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A clip as it will be stored, or the reason why it is left out."""

    piece: Piece
    video: bytes = b""  # MP4
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    left_out: LeftOut | None = None


def plan_film(film: Film, rules: Rules) -> FilmPlan:
    """Decode a film once to find its cuts, and plan its pieces."""
    try:
        clip = probe(film.path)
    except VideoError as error:
        return FilmPlan(film.name, left_out=(LeftOut(film.name, 0, 0, "unreadable", str(error)),))
    whole = LeftOut(film.name, 0, float(clip.duration), "unreadable", clip.damage or "")
    if clip.damage:
        return FilmPlan(film.name, left_out=(whole,))
    if clip.width < rules.min_size[0] or clip.height < rules.min_size[1]:
        size = f"{clip.width}x{clip.height}"
        whole = dataclasses.replace(whole, reason="too small", detail=size)
        return FilmPlan(film.name, left_out=(whole,))
    found = [Piece(film.name, film.path, *part) for part in _parts(clip, film, rules)]
    is_long = [piece.end - piece.start >= rules.min_seconds - 1e-3 for piece in found]
    pieces = tuple(piece for piece, long in zip(found, is_long, strict=True) if long)
    short = tuple(
        LeftOut(film.name, piece.start, piece.end, "too short")
        for piece, long in zip(found, is_long, strict=True)
        if not long
    )
    return FilmPlan(film.name, pieces, short)


def _parts(clip: Clip, film: Film, rules: Rules) -> Iterator[tuple[float, float, str]]:
    """List start, end and caption of every part of a scene, at most as long as clips may be."""
    times = [*map(float, clip.times), float(clip.end)]
    scenes = list(pairwise((0, *clip.cuts, clip.frames)))
    for (begin, stop), caption in film.wanted:
        for first, last in scenes:
            start, end = max(times[first], times[0] + begin), min(times[last], times[0] + stop)
            while start < end - 0.5 / float(clip.fps):
                yield start, min(end, start + rules.max_seconds), caption
                start += rules.max_seconds


def make_clip(piece: Piece, rules: Rules) -> Made:
    """Re-encode a piece, and filter it at the same time."""
    try:
        with av.open(str(piece.path), "r") as container:
            stream = video_stream(container, piece.path)
            stream.codec_context.thread_count = 1  # there is one process per core
            step = frame_step(stream, rules.fps)
            rate = (stream.average_rate or stream.guessed_rate or Fraction(24)) / step
            frames = frames_between(container, stream, piece.start, piece.end)
            watch = Watch(float(rate))
            video, size = encode(_watched(islice(frames, 0, None, step), watch), rate)
    except BROKEN_VIDEO as error:
        return Made(piece, left_out=_left_out(piece, "unreadable", str(error)))
    if watch.frames < rules.min_frames:
        return Made(piece, left_out=_left_out(piece, "too short", f"{watch.frames} frames"))
    if fault := watch.fault():
        return Made(piece, left_out=_left_out(piece, fault))
    facts = {
        "source": piece.film,
        "start": round(piece.start, 4),
        "end": round(piece.end, 4),
        "size": size,
        "fps": round(float(rate), 4),
        "frames": watch.frames,
    }
    return Made(piece, video, facts)


def _left_out(piece: Piece, reason: str, detail: str = "") -> LeftOut:
    return LeftOut(piece.film, piece.start, piece.end, reason, detail)


def _watched(frames: Iterator[av.VideoFrame], watch: Watch) -> Iterator[NDArray[np.uint8]]:
    """Convert frames to upright RGB, and add them to the watch."""
    first = next(frames, None)
    if first is None:
        return
    reader = RGBReader(*upright_size(first), found_colour(first).resolved(first.height))
    for frame in chain([first], frames):
        image = np.asarray(reader.read(frame), np.uint8)
        watch.add(image)
        yield image


def encode(images: Iterator[NDArray[np.uint8]], rate: Fraction) -> tuple[bytes, tuple[int, int]]:
    """Encode images (H W 3, RGB) as H.264 in MP4; also return width and height, made even."""
    buffer = io.BytesIO()
    first = next(images, None)
    if first is None:
        return b"", (0, 0)
    height, width = (n // 2 * 2 for n in first.shape[:2])
    maker = YUVMaker("yuv420p", Colour().resolved(height))
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(CRF)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = max(1, round(KEYFRAME_SECONDS * rate))
        stream.codec_context.thread_count = 1
        for image in chain([first], images):
            container.mux(stream.encode(maker.make(image[:height, :width])))
        container.mux(stream.encode(None))
    return buffer.getvalue(), (width, height)
