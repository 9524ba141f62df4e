"""Carry over what a file says about itself: metadata, chapters and attachments."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from av.container import InputContainer, OutputContainer
from av.stream import AttachmentStream, Stream

from venhancer.video.carriage import Carriage, file_name

if TYPE_CHECKING:
    from av.container.core import Chapter  # a type of the stubs alone

_OF_THE_OLD_FILE = re.compile(  # they describe its bytes, or name the program that wrote it
    "(major_brand|minor_version|compatible_brands|encoder|encoded_by|handler_name|vendor_id|"
    "duration|rotate|alpha_mode|number_of_frames|number_of_bytes|bps|_statistics_.*|"
    "source_id)(-[a-z]{2,3})?",
    re.IGNORECASE,
)
_OLD_LANGUAGES = {  # the codes of ISO 639-2/T that MOV does not know, and its own (639-2/B)
    "bod": "tib", "ces": "cze", "cym": "wel", "deu": "ger", "ell": "gre", "eus": "baq",
    "fas": "per", "fra": "fre", "hye": "arm", "isl": "ice", "kat": "geo", "mkd": "mac",
    "msa": "may", "mya": "bur", "nld": "dut", "ron": "rum", "slk": "slo", "sqi": "alb",
    "zho": "chi",
}  # fmt: skip
_OTHER_FILES = "application/octet-stream"  # type of an attachment that names none


def carried_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Select the metadata that are still true of the output."""
    return {key: text for key, text in metadata.items() if not _OF_THE_OLD_FILE.fullmatch(key)}


def track_metadata(metadata: Mapping[str, str], format: str) -> dict[str, str]:
    """Select the metadata of a track; what MP4 calls its name is its title elsewhere.

    format: FFmpeg's name of the output's
    """
    carried = carried_metadata(metadata)
    name = carried.pop("name", None)
    if format == "mov" and carried.get("language") in _OLD_LANGUAGES:
        carried["language"] = _OLD_LANGUAGES[carried["language"]]
    return {"title": name, **carried} if name else carried


def carry_tags(
    container: InputContainer, video: Stream, output: OutputContainer, carriage: Carriage
) -> None:
    """Copy metadata of the file and of its video, and chapters, before the header is written."""
    output.metadata.update(carried_metadata(container.metadata))
    for stream in output.streams.video[:1]:
        stream.metadata.update(track_metadata(video.metadata, output.format.name))
    if carriage.has_chapters:
        chapters = [_shifted(chapter, carriage.origin) for chapter in container.chapters()]
        output.set_chapters([c for c in chapters if c["end"] > 0])


def attach(stream: Stream, output: OutputContainer) -> None:
    """Copy an attached file."""
    assert isinstance(stream, AttachmentStream)
    target = output.add_attachment(file_name(stream), stream.mimetype or _OTHER_FILES, stream.data)
    target.metadata.update(stream.metadata)


def _shifted(chapter: "Chapter", origin: Fraction) -> "Chapter":
    tick = chapter["time_base"] or Fraction(1)
    start, end = (chapter[side] - round(origin / tick) for side in ("start", "end"))
    return {**chapter, "start": max(0, start), "end": end}
