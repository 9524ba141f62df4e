"""Copy sound and subtitles of the source to the output, unchanged where possible."""

import errno
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

from venhancer.video.decode import AnyPacket, codec_name

logger = logging.getLogger(__name__)

_TEXT_SUBTITLES = {"ass", "mov_text", "ssa", "srt", "subrip", "text", "webvtt"}
_TEXT_OF_CONTAINER = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip"}
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_TRIED_PACKETS = 4
_MARKUP = re.compile(r"\{[^}]*\}")
_ASS_HEADER = (
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n"
    "Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, "
    "BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    "BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\n"
    "Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\n"
    "\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)


@dataclass(slots=True)
class _Track:
    """One stream that is copied; text_codec is set where subtitles are converted."""

    source: Stream
    target: Stream
    text_codec: str | None = None


class TrackCopier:
    """Copier of the first sound track and all subtitles, used while the video is being written.

    The constructor adds streams to `output`, so call it before the first frame is encoded.
    A track that the container cannot take is left out with a logged warning.
    """

    def __init__(self, source: Path, output: OutputContainer) -> None:
        self._input: InputContainer = av.open(str(source.absolute()))
        self._output = output
        self._tracks: dict[int, _Track] = {}
        for stream in (*self._input.streams.audio[:1], *self._input.streams.subtitles):
            self._add(stream)
        self._packets = self._demux()
        self._held = next(self._packets, None)

    def pump(self, until: Fraction | None = None) -> None:
        """Write every packet that starts at `until` (seconds) or earlier; None: all of them."""
        while self._held is not None and (until is None or _start(self._held) <= until):
            self._write(self._held)
            self._held = next(self._packets, None)

    def close(self) -> None:
        """Close the source; packets that were not pumped are left out."""
        self._input.close()

    def _add(self, stream: Stream) -> None:
        name = codec_name(stream)
        container = self._output.format.name
        text_codec = None
        if self._can_hold(stream):
            target = _add_same(self._output, stream)
        else:
            text_codec = _TEXT_OF_CONTAINER.get(container)
            if name not in _TEXT_SUBTITLES or text_codec is None:
                logger.warning(
                    "%s (%s) is left out: %s cannot hold it", stream.type, name, container
                )
                return
            target = self._add_text(text_codec)
        target.metadata.update(stream.metadata)
        target.metadata.pop("DURATION", None)  # of the source; the muxer writes its own
        target.disposition = stream.disposition
        self._tracks[stream.index] = _Track(stream, target, text_codec)

    def _can_hold(self, stream: Stream) -> bool:
        """Try to write the start of a track in memory: some containers refuse only at their end."""
        name, container = self._input.name, self._output.format.name
        try:
            with av.open(name) as source, av.open(io.BytesIO(), "w", format=container) as trial:
                target = _add_same(trial, source.streams[stream.index])
                trial.start_encoding()
                wanted = _TRIED_PACKETS if stream.type == "audio" else 0
                for packet in islice(source.demux(source.streams[stream.index]), wanted):
                    if packet.size:
                        packet.stream = target
                        trial.mux_one(packet)
        except (av.error.FFmpegError, ValueError):
            return False
        return True

    def _add_text(self, codec: str) -> Stream:
        if codec != "mov_text":
            return self._output.add_mux_stream(codec, time_base=Fraction(1, 1000))
        target = self._output.add_stream(codec)
        assert isinstance(target, SubtitleStream)
        context = target.codec_context
        context.subtitle_header = _ASS_HEADER.encode()
        context.time_base = Fraction(1, 1000)
        context.open(strict=False)
        return target

    def _demux(self) -> Iterator[AnyPacket]:
        """Read packets of the copied tracks in the order of the file, until its end or damage."""
        if not self._tracks:
            return
        try:
            for packet in self._input.demux([t.source for t in self._tracks.values()]):
                if packet.size and (packet.pts is not None or packet.dts is not None):
                    yield packet
        except av.error.FFmpegError as error:
            logger.warning("sound and subtitles end early: %s", error.strerror)

    def _write(self, packet: AnyPacket) -> None:
        track = self._tracks.get(packet.stream_index)
        if track is None:
            return  # this track was given up earlier
        try:
            if track.text_codec:
                packet = _rewritten(packet, track.source, track.text_codec)
            packet.stream = track.target
            self._output.mux_one(packet)
        except av.error.FFmpegError as error:
            if error.errno in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT):
                raise
            del self._tracks[track.source.index]
            name = codec_name(track.source)
            logger.warning(
                "%s (%s) ends early in the output: %s", track.source.type, name, error.strerror
            )


def _add_same(output: OutputContainer, stream: Stream) -> Stream:
    """Add a stream for the same packets; a bare channel count gets its usual layout."""
    target = output.add_stream_from_template(stream, opaque=True)
    if isinstance(target, AudioStream):
        context = target.codec_context
        layout = _USUAL_LAYOUTS.get(context.layout.nb_channels)
        if layout and context.layout.name.endswith("channels"):
            context.layout = layout
    return target


def _start(packet: AnyPacket) -> Fraction:
    stamp = packet.pts if packet.pts is not None else packet.dts
    return (stamp or 0) * (packet.time_base or Fraction(1))


def _rewritten(packet: AnyPacket, stream: Stream, codec: str) -> AnyPacket:
    """Convert a subtitle to plain text in a packet of another codec, at the same time."""
    assert isinstance(stream, SubtitleStream)
    subtitles = stream.codec_context.decode2(packet)
    texts = [s for s in subtitles or () if isinstance(s, AssSubtitle)]
    lines = [text.dialogue.decode(errors="replace") for text in texts]
    data = _MARKUP.sub("", "\n".join(lines)).strip().encode()
    if codec == "mov_text":
        data = len(data).to_bytes(2, "big") + data
    rewritten: AnyPacket = av.Packet(data or b" ")
    rewritten.time_base = packet.time_base
    rewritten.pts = rewritten.dts = packet.pts
    rewritten.duration = packet.duration
    return rewritten
