"""Open video files and decode them frame by frame, with each frame's stored time."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from venhancer.errors import VideoError
from venhancer.options import FOLDER_FPS

if TYPE_CHECKING:
    AnyPacket: TypeAlias = av.Packet[Stream]
else:
    AnyPacket = av.Packet  # cannot be subscripted at run time

_STILL_FORMATS = {".png": "png_pipe", ".jpg": "jpeg_pipe", ".jpeg": "jpeg_pipe"}
_TEXT_FORMATS = {"tty"}  # FFmpeg renders plain text as video; nobody wants that


@dataclass(slots=True)
class Health:
    """Signs of damage met while decoding."""

    errors: int = 0
    end: Fraction = Fraction(0)  # latest end of any packet, seconds


def open_input(path: Path) -> InputContainer:
    try:
        container = av.open(str(path.absolute()), format=_STILL_FORMATS.get(path.suffix.lower()))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path} cannot be read as video (cut short?): {reason}") from error
    if container.format.name in _TEXT_FORMATS:
        container.close()
        raise VideoError(f"{path} is text, not video")
    return container


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Find the first video stream that is not a cover picture; it decodes with threads."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context:
            stream.thread_type = "AUTO"
            return stream
    raise VideoError(f"{path} has no video stream that can be decoded")


def codec_name(stream: Stream) -> str:
    """Get the codec's own name (subrip, mp3), whatever the decoder; "unknown" without one."""
    return stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"


def decode(
    container: InputContainer, stream: VideoStream, health: Health
) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Decode every readable frame, with its time; damaged packets are counted and skipped."""
    clock = _Clock(1 / (stream.guessed_rate or FOLDER_FPS))
    packets = container.demux()
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            packet = None
            health.errors += 1
        if packet is not None and packet.stream_index != stream.index:
            _note_end(packet, health)
            continue
        for frame in _decode_packet(stream, packet, health):
            yield frame, clock.read(frame)
        if packet is None:
            return


def _note_end(packet: AnyPacket, health: Health) -> None:
    if packet.pts is not None and packet.time_base and packet.stream.type in ("audio", "subtitle"):
        end = (packet.pts + (packet.duration or 0)) * packet.time_base
        health.end = max(health.end, end)
    health.errors += packet.is_corrupt


def _decode_packet(
    stream: VideoStream, packet: AnyPacket | None, health: Health
) -> list[av.VideoFrame]:
    if packet is not None:
        health.errors += packet.is_corrupt
    try:
        return list(stream.decode(packet))
    except EOFError:
        return []  # already flushed by the empty packet at the end of the file
    except av.error.FFmpegError:
        health.errors += 1
        return []


class _Clock:
    """Reader of each frame's stored time; corrects missing and repeated ones, so time increases.

    step: seconds between frames, for frames without a usable time.
    """

    def __init__(self, step: Fraction) -> None:
        self.step = step
        self.last: Fraction | None = None

    def read(self, frame: av.VideoFrame) -> Fraction:
        tick = frame.time_base or Fraction(1, 1000)
        time = None if frame.pts is None else frame.pts * tick
        if self.last is None:
            time = Fraction(0) if time is None else time
        elif time is None or time < self.last - 1:
            time = self.last + self.step
        elif time <= self.last:
            time = self.last + min(tick, self.step)
        self.last = time
        return time
