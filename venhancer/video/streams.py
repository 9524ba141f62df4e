"""The streams of a file: which one is the video, and how each is described."""

from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from venhancer.errors import VideoError
from venhancer.video.clip import Track

_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails


def video_stream(container: InputContainer, path: Path, wanted: int | None = None) -> VideoStream:
    """Choose the video: the stream asked for, else the default one, else the largest.

    Cover pictures are left out. The stream decodes with threads. VideoError if there is none.
    """
    possible = [s for s in container.streams.video if _is_film(s)]
    if wanted is not None:
        possible = [stream for stream in possible if stream.index == wanted]
    if not possible:
        found = ", ".join(f"{s.index} ({s.type})" for s in container.streams) or "none"
        asked = "no video stream that can be decoded" if wanted is None else f"no video {wanted}"
        raise VideoError(f"{path} has {asked}; its streams: {found}")
    stream = max(possible, key=_preference)
    stream.thread_type = "AUTO"
    return stream


def _is_film(stream: VideoStream) -> bool:
    return bool(stream.codec_context) and not stream.disposition & _NO_VIDEO


def _preference(stream: VideoStream) -> tuple[bool, int, int]:
    """Order streams by the default flag, then by size, then by their place in the file."""
    is_default = bool(stream.disposition & Disposition.default)
    return is_default, stream.width * stream.height, -stream.index


def codec_name(stream: Stream) -> str:
    """Get the codec's own name (subrip, bin_data), also where FFmpeg has no decoder for it."""
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    return getattr(stream, "name", None) or "unknown"


def describe(stream: Stream) -> Track:
    """Describe a stream of a container."""
    words = [stream.metadata.get("language"), stream.metadata.get("title")]
    words.append(stream.metadata.get("filename"))
    if isinstance(stream, VideoStream) and stream.codec_context:
        words.append(f"{stream.width}x{stream.height}")
    if stream.disposition & Disposition.default:
        words.append("default")
    start = None
    if stream.start_time is not None and stream.time_base is not None:
        start = Fraction(stream.start_time) * stream.time_base
    return Track(
        index=stream.index,
        kind=stream.type,
        codec=codec_name(stream),
        words=", ".join(word for word in words if word and word != "und"),
        start=start,
    )
