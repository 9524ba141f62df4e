"""Decode a file frame by frame, with the time of each, and count the damage."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from venhancer.errors import VideoError
from venhancer.options import FOLDER_FPS, USUAL_LIMITS, InputLimits
from venhancer.video.stamps import AnyPacket, Clocks, index_of


@dataclass(slots=True)
class Health:
    """Signs of damage met while decoding."""

    errors: int = 0  # packets that are marked as broken or cannot be decoded
    corrupt: int = 0  # frames that were decoded with gaps
    jumps: int = 0  # of the clock, mended
    end: Fraction = Fraction(0)  # latest end of any packet, seconds


def decode(
    container: InputContainer,
    stream: VideoStream,
    health: Health | None = None,
    limits: InputLimits = USUAL_LIMITS,
) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Decode every readable frame, with its time; damaged packets are counted and skipped.

    VideoError for a frame of more pixels than the limit.
    """
    health = health or Health()
    stream.codec_context.options = {"max_pixels": str(limits.pixels)}
    _check_size(stream.width, stream.height, limits)
    clock = _Clock(1 / (stream.guessed_rate or FOLDER_FPS), stream.time_base)
    clocks = Clocks(container, stream)
    packets = clocks.repaired(container.demux())
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            packet = None
            health.errors += 1
        if packet is not None and index_of(packet) != stream.index:
            _note_end(packet, health)
            continue
        for frame in _decode_packet(stream, packet, health):
            _check_size(frame.width, frame.height, limits)
            health.corrupt += frame.is_corrupt
            yield frame, clock.read(frame)
        health.jumps = len(clocks.shifts)
        if packet is None:
            return


def _check_size(width: int, height: int, limits: InputLimits) -> None:
    if width * height > limits.pixels:
        raise VideoError(
            f"a frame has {width}x{height} pixels, the limit is {limits.pixels}: shrink the video"
        )


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

    step: seconds between frames, for frames without a usable time. tick: of the stream, seconds.
    """

    def __init__(self, step: Fraction, tick: Fraction | None) -> None:
        self.step, self.tick = step, tick or Fraction(1, 1000)
        self.last: Fraction | None = None

    def read(self, frame: av.VideoFrame) -> Fraction:
        tick = frame.time_base or self.tick
        time = None if frame.pts is None else frame.pts * tick
        if self.last is None:
            time = Fraction(0) if time is None else time
        elif time is None or time < self.last - 1:
            time = self.last + self.step
        elif time <= self.last:
            time = self.last + min(tick, self.step)
        self.last = time
        return time
