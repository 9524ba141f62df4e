"""Copy sound, subtitles, chapters and metadata of the source while the video is written."""

import errno
import heapq
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
from av.container import OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from venhancer.video.carriage import Carriage, How
from venhancer.video.holding import add_same
from venhancer.video.inputs import open_input
from venhancer.video.sound import AACTrack
from venhancer.video.stamps import AnyPacket, demuxed
from venhancer.video.subtitles import add_text, rewritten
from venhancer.video.tags import attach, carry_tags, track_metadata

logger = logging.getLogger(__name__)

_LONGEST_PRIMING = Fraction(1, 10)  # seconds that decoders take to start; more was cut away
_MOST_WAITING = 100  # packets that are held until the video reaches them
_DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)


@dataclass(slots=True)
class _Track:
    """One stream that is carried over."""

    source: Stream
    target: Stream
    encoder: AACTrack | None = None
    is_rewritten: bool = False  # subtitles that become plain text
    due: Fraction | None = None  # latest start of its packets so far, seconds
    keeps_cut: bool = False  # packets that players do not show are copied all the same
    last: int | None = None  # decoding stamp of the last packet that was written


class TrackCopier:
    """Copier of all tracks that a `Carriage` names, used while the video is being written.

    The constructor adds streams to `output`: call it after the video stream was added and before
    the first frame is encoded. Times are those of the source minus the carriage's origin.
    """

    def __init__(self, source: Path, output: OutputContainer, carriage: Carriage) -> None:
        self._input = open_input(source)
        self._output, self._origin = output, carriage.origin
        self._tracks: dict[int, _Track] = {}
        self._waiting: list[tuple[Fraction, int, AnyPacket]] = []
        self._numbers = count()
        self._reached = Fraction(-1)  # seconds, how far the source was read
        self._refused = 0  # packets
        streams = self._input.streams
        for carried in carriage.tracks:
            self._add(streams[carried.index], carried.how)
        video = streams[carriage.video]
        assert isinstance(video, VideoStream)
        carry_tags(self._input, video, output, carriage)
        sounds = {index for index, track in self._tracks.items() if track.source.type == "audio"}
        self._paces = sounds or {video.index}  # streams whose times tell how far reading is
        self._packets = self._demux(video)

    def pump(self, until: Fraction | None = None) -> None:
        """Write every packet that starts at `until` (seconds) or earlier; None: all of them."""
        self._write_waiting(until)
        while self._read_one(until):
            self._write_waiting(until)
        if until is None:
            self._finish()

    def close(self) -> None:
        """Close the source; packets that were not pumped are left out."""
        self._input.close()

    def _add(self, stream: Stream, how: How) -> None:
        if how == "attachment":
            attach(stream, self._output)
            return
        encoder = AACTrack(stream, self._output) if how == "aac" else None
        if encoder is not None:
            target: Stream = encoder.target
        elif how == "text":
            target = add_text(self._output)
        else:
            target = add_same(self._output, stream)
        target.metadata.update(track_metadata(stream.metadata, self._output.format.name))
        target.disposition = stream.disposition
        self._tracks[stream.index] = _Track(stream, target, encoder, how == "text")

    def _demux(self, video: VideoStream) -> Iterator[AnyPacket]:
        """Read packets in the order of the file, until its end or damage."""
        if not self._tracks:
            return
        try:
            yield from demuxed(self._input, video)
        except av.error.FFmpegError as error:
            logger.warning("sound and subtitles end early: %s", error.strerror)

    def _read_one(self, until: Fraction | None) -> bool:
        """Read one packet; False at the end, or where the source was read far enough."""
        is_enough = until is not None and (
            self._reached > until or len(self._waiting) >= _MOST_WAITING
        )
        packet = None if is_enough else next(self._packets, None)
        if packet is None:
            return False
        stored = _start(packet)
        if stored is None or not packet.size:
            return True
        start = stored - self._origin
        if packet.stream_index in self._paces:
            self._reached = start
        track = self._tracks.get(packet.stream_index)
        if track is not None:
            if track.due is None:
                track.keeps_cut = self._keeps_cut(track.source, stored)
            track.due = start if track.due is None else max(track.due, start)
            heapq.heappush(self._waiting, (track.due, next(self._numbers), packet))
        return True

    def _keeps_cut(self, source: Stream, first: Fraction) -> bool:
        """Tell whether the packets before a track's start are copied, though none shows them.

        Decoders need the last of them to start. MP4 cuts them away again, by its edit list.
        """
        format = self._output.format.name
        if format == "avi":
            return False
        start = (source.start_time or 0) * (source.time_base or Fraction(1))
        is_cut_again = format in ("mp4", "mov") and start == self._origin == 0
        return is_cut_again or start - first <= _LONGEST_PRIMING

    def _write_waiting(self, until: Fraction | None) -> None:
        while self._waiting and (until is None or self._waiting[0][0] <= until):
            _, _, packet = heapq.heappop(self._waiting)
            track = self._tracks[packet.stream_index]
            _shift(packet, self._origin)
            self._write(track, self._converted(track, packet))

    def _converted(self, track: _Track, packet: AnyPacket) -> Iterable[AnyPacket]:
        if track.encoder is not None:
            return track.encoder.feed(packet)
        if not packet.is_discard:
            track.keeps_cut = False
        elif not track.keeps_cut:
            return ()
        if not track.is_rewritten:
            return (packet,)
        plain = rewritten(packet, track.source, self._output.format.name)
        return () if plain is None else (plain,)

    def _write(self, track: _Track, packets: Iterable[AnyPacket]) -> None:
        """Write packets with stamps that the muxer takes; those that it refuses are counted."""
        for packet in packets:
            if not self._mend(track, packet):
                continue
            packet.stream = track.target
            try:
                self._output.mux_one(packet)
            except av.error.FFmpegError as error:
                if error.errno in _DISK_ERRORS:
                    raise
                self._refused += 1

    def _mend(self, track: _Track, packet: AnyPacket) -> bool:
        """Convert stamps to the output's clock, always increasing; False for what AVI cannot say.

        AVI starts at 0, so the half of a packet that is earlier decides whether it is left out.
        """
        assert track.target.time_base is not None
        if packet.dts is None:
            packet.dts = packet.pts
        _rescale(packet, track.target.time_base)
        assert packet.dts is not None
        if self._output.format.name == "avi" and packet.dts < 0:
            if 2 * packet.dts + (packet.duration or 0) <= 0:
                return False
            packet.dts = 0
        if track.last is not None:
            packet.dts = max(packet.dts, track.last + 1)
        packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        track.last = packet.dts
        return True

    def _finish(self) -> None:
        for track in self._tracks.values():
            if track.encoder is not None:
                self._write(track, track.encoder.feed(None))
        if self._refused:
            name = self._output.format.name
            logger.warning("packets of copied tracks that %s refuses: %d", name, self._refused)


def _start(packet: AnyPacket) -> Fraction | None:
    stamp = packet.pts if packet.pts is not None else packet.dts
    return None if stamp is None else stamp * (packet.time_base or Fraction(1))


def _shift(packet: AnyPacket, origin: Fraction) -> None:
    """Move a packet to the output's origin of time."""
    ticks = round(origin / (packet.time_base or 1))
    packet.pts = None if packet.pts is None else packet.pts - ticks
    packet.dts = None if packet.dts is None else packet.dts - ticks


def _rescale(packet: AnyPacket, tick: Fraction) -> None:
    """Convert the stamps of a packet to another clock."""
    ratio = (packet.time_base or tick) / tick
    packet.pts = None if packet.pts is None else round(packet.pts * ratio)
    packet.dts = None if packet.dts is None else round(packet.dts * ratio)
    packet.duration = round((packet.duration or 0) * ratio)
    packet.time_base = tick
