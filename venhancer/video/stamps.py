"""Packets of a file with one clock: where it jumps, the later packets are shifted to follow on.

Recordings that were restarted or joined jump back, and broadcasts jump either way. The video
stream decides where the next part begins and how far it is shifted; the other streams take the
same shift, so that sound stays in sync. One early packet between others is no jump.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import av
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

if TYPE_CHECKING:
    AnyPacket: TypeAlias = av.Packet[Stream]
else:
    AnyPacket = av.Packet  # cannot be subscripted at run time

LONGEST_GAP = 10  # seconds; in formats whose clock can jump forward, a longer one is a jump
_JUMPING_FORMATS = ("mpegts", "mpeg", "flv")  # their clocks may jump forward too
_STEADY_FORMATS = ("mov", "matroska", "avi")  # one time line in each file
_MOST_HELD = 500  # packets of a stream that wait for the video's jump


@dataclass(slots=True)
class _Line:
    """Time line of one stream."""

    part: int = 0  # parts of the file that it has passed
    shift: Fraction = Fraction(0)  # seconds, added to the stamps of this part
    last: int | None = None  # stored time of the last packet, in ticks of the stream
    step: int = 0  # duration of the last packet, in ticks
    held: list[AnyPacket] = field(default_factory=list)  # packets after what may be a jump
    is_waiting: bool = False  # for the video to jump too

    @property
    def next(self) -> int:
        """Stored time at which the next packet of this part should begin, in ticks."""
        assert self.last is not None
        return self.last + self.step


class Clocks:
    """Clock of every stream of a container, repaired as packets come in."""

    def __init__(self, container: InputContainer, video: VideoStream) -> None:
        self._video = video.index
        self._can_jump = not container.format.name.startswith(_STEADY_FORMATS)
        self._can_jump_forward = container.format.name in _JUMPING_FORMATS
        self._lines = {stream.index: _Line() for stream in container.streams}
        self.shifts: list[Fraction] = []  # of each part of the file after the first

    def _feed(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        """Take the next packet and yield those that are ready, with their stamps repaired."""
        line = self._lines.setdefault(index_of(packet), _Line())
        time = packet.dts
        if time is None:  # at the end, or the first ones of a stream whose frames are reordered
            yield from () if packet.size else self._let_go(line)
            yield _shifted(packet, line.shift)
        elif line.held:
            yield from self._after_jump(packet, line, time)
        elif self._is_jump(line, packet, time):
            line.held.append(packet)
        else:
            yield _passed(line, packet)

    def repaired(self, packets: Iterator[AnyPacket]) -> Iterator[AnyPacket]:
        """Repair all packets of the file; the empty ones at its end are kept for the video only."""
        for packet in packets:
            if packet.size or index_of(packet) == self._video:
                yield from self._feed(packet)
        for line in self._lines.values():
            yield from self._let_go(line)

    def _is_jump(self, line: _Line, packet: AnyPacket, time: int) -> bool:
        if line.last is None or not self._can_jump:
            return False
        gap = time - line.last
        return gap < 0 or (self._can_jump_forward and gap * _tick(packet) > LONGEST_GAP)

    def _after_jump(self, packet: AnyPacket, line: _Line, time: int) -> Iterator[AnyPacket]:
        """Decide whether the packet before this one began a new part, or was only misplaced."""
        before = line.held[-1].dts
        assert before is not None
        follows_old = abs(time - line.next) <= abs(time - before - (line.held[-1].duration or 0))
        if not line.is_waiting and follows_old:
            yield from self._let_go(line)
            yield _passed(line, packet)
            return
        line.held.append(packet)
        if index_of(packet) == self._video:
            self.shifts.append(line.shift + (line.next - before) * _tick(packet))
            waiting = [it for it in self._lines.values() if it.is_waiting]
            for entering in (line, *waiting):
                yield from self._enter(entering, len(self.shifts))
        elif line.part < len(self.shifts):
            yield from self._enter(line, line.part + 1)
        else:
            line.is_waiting = True
            if len(line.held) > _MOST_HELD:  # the video does not jump
                yield from self._let_go(line)

    def _enter(self, line: _Line, part: int) -> Iterator[AnyPacket]:
        line.part, line.shift = part, self.shifts[part - 1]
        yield from _drained(line)

    def _let_go(self, line: _Line) -> Iterator[AnyPacket]:
        """Yield what is held: a misplaced packet, or a part that only this stream has."""
        if line.is_waiting:
            first = line.held[0].dts
            assert first is not None
            line.shift += (line.next - first) * _tick(line.held[0])
            yield from _drained(line)
        for packet in line.held:
            yield _shifted(packet, line.shift)
        line.held = []


def _drained(line: _Line) -> Iterator[AnyPacket]:
    """Yield the held packets as the beginning of a new part."""
    held, line.held, line.is_waiting = line.held, [], False
    for packet in held:
        yield _passed(line, packet)


def _passed(line: _Line, packet: AnyPacket) -> AnyPacket:
    """Shift a packet, and remember its place; an unknown duration is taken from the stamps."""
    time = packet.dts
    if packet.duration:
        line.step = packet.duration
    elif line.last is not None and time is not None and time > line.last:
        line.step = time - line.last
    line.last = time
    return _shifted(packet, line.shift)


def _shifted(packet: AnyPacket, shift: Fraction) -> AnyPacket:
    if shift:
        ticks = round(shift / _tick(packet))
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
    return packet


def demuxed(container: InputContainer, video: VideoStream) -> Iterator[AnyPacket]:
    """Yield every packet of the file, of all streams, with repaired stamps.

    The empty packet that ends the video is yielded too; those of other streams are not.
    """
    clocks = Clocks(container, video)
    return clocks.repaired(container.demux())


def index_of(packet: AnyPacket) -> int:
    """Return the index of a packet's stream; PyAV's `stream_index` is 0 for all empty packets."""
    return packet.stream.index


def _tick(packet: AnyPacket) -> Fraction:
    """Return the seconds of a tick."""
    return packet.time_base or Fraction(1, 1000)
