"""Re-encode a sound track to AAC, with all its samples and in sync."""

from collections.abc import Iterator
from fractions import Fraction

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.codec import CodecContext
from av.container import OutputContainer
from av.stream import Stream

from venhancer.video.holding import USUAL_LAYOUTS
from venhancer.video.stamps import AnyPacket

_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_FRAME = 1024  # samples of an AAC frame
_CHANNEL_BITS = 96_000  # per second and channel
_MOST_BITS = 6  # per sample and channel: AAC's own limit


class AACTrack:
    """Encoder of one track; `target` is its stream in the output.

    Times follow the number of samples, so that rounded times of the source do not matter. Where
    the source has a gap of more than an AAC frame, the times have it too.
    """

    def __init__(self, source: Stream, output: OutputContainer) -> None:
        assert isinstance(source, AudioStream)
        self._source = source
        rate, layout = _nearest_rate(source.codec_context.sample_rate), _nearest_layout(source)
        self.target = output.add_stream("aac", rate=rate)
        context = self.target.codec_context
        context.layout, context.format = layout, "fltp"
        channels = context.layout.nb_channels
        context.bit_rate = channels * min(_CHANNEL_BITS, _MOST_BITS * rate)
        self._resampler: av.AudioResampler | None = None
        self._shape: tuple[str, str, int] | None = None  # of the frames that it takes
        self._next: int | None = None  # sample that comes next

    def feed(self, packet: AnyPacket | None) -> Iterator[AnyPacket]:
        """Decode one packet and yield what is encoded; None: the rest."""
        for frame in self._decode(packet):
            yield from self._encode(frame)
        if packet is None:
            yield from self._end_part()
            yield from self.target.encode(None)

    def _decode(self, packet: AnyPacket | None) -> list[av.AudioFrame]:
        try:
            return self._source.codec_context.decode(packet)
        except (av.error.FFmpegError, EOFError):
            return []  # damaged: the gap shows in the times of the next frames

    def _encode(self, frame: av.AudioFrame) -> Iterator[AnyPacket]:
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            yield from self._end_part()
            self._begin_part(shape)
        assert self._resampler is not None
        self._stamp(frame)
        for converted in self._resampler.resample(frame):
            yield from self.target.encode(converted)

    def _begin_part(self, shape: tuple[str, str, int]) -> None:
        if self._shape and self._next is not None:
            self._next = round(Fraction(self._next, self._shape[2]) * shape[2])
        context = self.target.codec_context
        self._shape = shape
        self._resampler = av.AudioResampler("fltp", context.layout, context.sample_rate)

    def _end_part(self) -> Iterator[AnyPacket]:
        for converted in self._resampler.resample(None) if self._resampler else ():
            if converted is not None:
                yield from self.target.encode(converted)

    def _stamp(self, frame: av.AudioFrame) -> None:
        """Give a frame the time after the one before, or its own where it comes after a gap."""
        rate = frame.sample_rate
        stored = None
        if frame.pts is not None and frame.time_base:
            stored = round(frame.pts * frame.time_base * rate)
        if self._next is None:
            self._next = stored or 0
        gap = 0 if stored is None else stored - self._next
        if gap * self.target.codec_context.sample_rate > _FRAME * rate:
            self._next += gap
        frame.pts, frame.time_base = self._next, Fraction(1, rate)
        self._next += frame.samples


def _nearest_rate(rate: int) -> int:
    return next((known for known in _RATES if known >= rate), _RATES[-1])


def _nearest_layout(source: AudioStream) -> str:
    """Choose the source's layout where AAC has it, else the usual one, else stereo."""
    layout = source.codec_context.layout
    usual = USUAL_LAYOUTS.get(layout.nb_channels, "stereo")
    return layout.name if _has_layout(layout.name) else usual


def _has_layout(layout: str) -> bool:
    context = CodecContext.create("aac", "w")
    assert isinstance(context, AudioCodecContext)
    try:
        context.layout, context.format, context.sample_rate = layout, "fltp", 48000
        context.time_base = Fraction(1, 48000)
        context.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
