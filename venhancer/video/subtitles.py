"""Rewrite subtitles as plain text, for containers that cannot hold them as they are."""

import re
from fractions import Fraction

import av
from av.container import OutputContainer
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

from venhancer.video.stamps import AnyPacket

TEXT_CODECS = {"ass", "mov_text", "ssa", "srt", "subrip", "text", "webvtt"}  # can be rewritten
TEXT_OF_FORMAT = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip"}
_MARKUP = re.compile(r"\{[^}]*\}")
_ASS_HEADER = (
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n"
    "Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, "
    "BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    "BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\n"
    "Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\n"
    "\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)


def add_text(output: OutputContainer) -> Stream:
    """Add the plain text subtitles of an output's format."""
    codec = TEXT_OF_FORMAT[output.format.name]
    if codec != "mov_text":
        return output.add_mux_stream(codec, time_base=Fraction(1, 1000))
    target = output.add_stream(codec)
    assert isinstance(target, SubtitleStream)
    context = target.codec_context
    context.subtitle_header = _ASS_HEADER.encode()
    context.time_base = Fraction(1, 1000)
    context.open(strict=False)
    return target


def rewritten(packet: AnyPacket, stream: Stream, format: str) -> AnyPacket | None:
    """Convert a subtitle to a packet of plain text at the same time; None where it is empty."""
    assert isinstance(stream, SubtitleStream)
    subtitles = stream.codec_context.decode2(packet)
    texts = [s for s in subtitles or () if isinstance(s, AssSubtitle)]
    lines = [text.dialogue.decode(errors="replace") for text in texts]
    data = _MARKUP.sub("", "\n".join(lines)).strip().encode()
    if not data:
        return None
    if TEXT_OF_FORMAT[format] == "mov_text":
        data = len(data).to_bytes(2, "big") + data
    plain: AnyPacket = av.Packet(data)
    plain.time_base = packet.time_base
    plain.pts = plain.dts = packet.pts
    plain.duration = packet.duration
    return plain
