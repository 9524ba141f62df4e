"""Find out what an output container can hold, by writing the start of each track in memory."""

import io
from collections.abc import Sequence
from itertools import islice

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from venhancer.video.stamps import AnyPacket
from venhancer.video.streams import codec_name

MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}  # FFmpeg's names
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}  # by the number of channels
_PICTURE_SUBTITLES = {"dvb_subtitle", "dvd_subtitle", "hdmv_pgs_subtitle", "xsub", "dvb_teletext"}
_TRIED_PACKETS = 4  # of each sound track: some containers refuse only at their end
_READ_PACKETS = 2000  # of the file, to find them


class Trial:
    """Answers whether containers can hold the tracks of an open input.

    It reads the start of the input, which cannot be used for anything else afterwards.
    """

    def __init__(self, container: InputContainer) -> None:
        self._first: dict[int, list[AnyPacket]] = {s.index: [] for s in container.streams.audio}
        try:
            for packet in islice(container.demux(), _READ_PACKETS):
                found = self._first.get(packet.stream_index)
                if found is not None and len(found) < _TRIED_PACKETS and packet.size:
                    found.append(packet)
                if all(len(found) == _TRIED_PACKETS for found in self._first.values()):
                    break
        except av.error.FFmpegError:
            pass  # damage: what was found before it is enough

    def can_hold(self, stream: Stream, format: str) -> bool:
        """Tell whether an output of FFmpeg's `format` takes the packets of a track as they are."""
        if format in ("mp4", "mov") and codec_name(stream) in _PICTURE_SUBTITLES:
            return False  # FFmpeg writes some of them, but players show none
        try:
            with av.open(io.BytesIO(), "w", format=format) as output:
                _write_start(output, stream, self._first.get(stream.index, ()))
        except (av.error.FFmpegError, ValueError):
            return False
        return True


def _write_start(output: OutputContainer, stream: Stream, packets: Sequence[AnyPacket]) -> None:
    target = add_same(output, stream)
    output.start_encoding()
    for number, packet in enumerate(packets):
        assert target.time_base is not None
        packet.stream, packet.time_base = target, target.time_base
        packet.pts = packet.dts = number
        output.mux_one(packet)


def add_same(output: OutputContainer, stream: Stream) -> Stream:
    """Add a stream for the same packets; a bare channel count gets its usual layout."""
    target = output.add_stream_from_template(stream, opaque=True)
    if isinstance(target, AudioStream):
        context = target.codec_context
        layout = USUAL_LAYOUTS.get(context.layout.nb_channels)
        if layout and context.layout.name.endswith("channels"):
            context.layout = layout
    return target
