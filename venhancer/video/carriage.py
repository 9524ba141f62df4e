"""Decide which tracks of a video are carried over to the output, how, and what to say about it."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from av.container import InputContainer
from av.stream import Discard, Disposition, Stream

from venhancer.options import Audio
from venhancer.video.clip import Clip
from venhancer.video.holding import MUXERS, Trial
from venhancer.video.inputs import open_input
from venhancer.video.streams import codec_name
from venhancer.video.subtitles import TEXT_CODECS, TEXT_OF_FORMAT
from venhancer.video.target import is_folder_target

How = Literal["copy", "aac", "text", "attachment"]
MATROSKA = MUXERS[".mkv"]
_AUDIBLE_DELAY = Fraction(1, 20)  # seconds
_NOUNS = {
    "audio": "sound track",
    "subtitle": "subtitle track",
    "attachment": "attachment",
    "data": "data track",
    "video": "video track",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedTrack:
    """Track of the input that the output holds too."""

    index: int  # of the stream in the input
    how: How  # text: subtitles rewritten as plain text; aac: sound encoded again


@dataclass(frozen=True, slots=True, kw_only=True)
class Carriage:
    """Decision about every track of a video but the one that is enhanced."""

    video: int = 0  # index of the stream that is enhanced
    tracks: tuple[CarriedTrack, ...] = ()
    has_chapters: bool = False  # whether chapters, if there are any, are carried over
    origin: Fraction = Fraction(0)  # seconds of the input's clock that are 0 in the output
    notes: tuple[str, ...] = ()  # one line each: what is changed or left out, and why


@dataclass(frozen=True, slots=True)
class _Fate:
    """Decision about one stream."""

    stream: Stream
    how: How | None = None  # None: left out
    note: str = ""  # what is said of it; {are} and {them} stand for the words of one or many


def choose_tracks(clip: Clip, target: Path, audio: Audio = "copy") -> Carriage:
    """Decide what `target` can hold of a clip's tracks; nothing is written.

    audio: copy (AAC where the output cannot hold the codec), aac for all sound, or none
    """
    if clip.is_folder:
        return Carriage(origin=clip.times[0])
    with open_input(clip.path) as container:
        others = [stream for stream in container.streams if stream.index != clip.stream]
        if is_folder_target(target):
            return Carriage(
                origin=clip.times[0], notes=_folder_notes(others, len(container.chapters()))
            )
        judge = _Judge(container, target, audio)
        fates = [judge.decide(stream) for stream in others]
        chapters = len(container.chapters())
        tracks = tuple(CarriedTrack(index=f.stream.index, how=f.how) for f in fates if f.how)
        return Carriage(
            video=clip.stream,
            tracks=tracks,
            has_chapters=judge.holds_chapters,
            origin=_origin(clip, tracks),
            notes=(
                *_notes([*fates, *judge.delays(clip, fates)]),
                *judge.chapter_notes(chapters),
                *judge.language_notes(f.stream for f in fates if f.how),
                *judge.default_notes(f.stream for f in fates if f.how),
            ),
        )


class _Judge:
    """Decides about one stream after the other."""

    def __init__(self, container: InputContainer, target: Path, audio: Audio) -> None:
        self._audio = audio
        self._format = MUXERS[target.suffix.lower()]
        self._trial = Trial(container)
        self._refusal = f"{target.suffix.lower().removeprefix('.')} cannot hold {{them}}"
        matroska = shlex.quote(target.with_suffix(".mkv").name)
        self._advice = f"; -o {matroska.replace('{', '{{').replace('}', '}}')} keeps {{them}}"

    @property
    def holds_chapters(self) -> bool:
        return self._format != "avi"

    def chapter_notes(self, chapters: int) -> tuple[str, ...]:
        """Say that chapters are left out, where there are some."""
        if self.holds_chapters or not chapters:
            return ()
        note = f"the chapters are left out: {self._refusal}{self._advice}"
        return (note.format(them="them"),)

    def language_notes(self, carried: Iterable[Stream]) -> tuple[str, ...]:
        """Say that languages are left out, where tracks differ in them."""
        if self._format != "avi" or len({stream.language for stream in carried}) < 2:
            return ()
        note = f"the languages of tracks are left out: {self._refusal}{self._advice}"
        return (note.format(them="them"),)

    def default_notes(self, carried: Iterable[Stream]) -> tuple[str, ...]:
        """Say that players may show subtitles that the input does not show by itself."""
        subtitles = [stream for stream in carried if stream.type == "subtitle"]
        has_default = any(stream.disposition & Disposition.default for stream in subtitles)
        if self._format not in ("mp4", "mov") or not subtitles or has_default:
            return ()
        note = f"{_subject(subtitles[:1])} becomes the default: {self._format} always has one"
        return (f"{note}{self._advice}".format(them="it as it is"),)

    def delays(self, clip: Clip, fates: Sequence[_Fate]) -> Iterator[_Fate]:
        """Say which sound does not start with the video, where the output cannot hold that."""
        starts = {track.index: track.start for track in clip.tracks}
        for stream in (f.stream for f in fates if f.how and f.stream.type == "audio"):
            start = starts.get(stream.index)
            delay = Fraction(0) if start is None else max(start, Fraction(0)) - clip.times[0]
            if self._format == "avi" and delay > _AUDIBLE_DELAY:
                change = f"{{are}} {float(delay):.2f} s too early in the output"
                yield _Fate(stream, None, f"{change}: avi holds no delay{self._advice}")

    def decide(self, stream: Stream) -> _Fate:
        match stream.type:
            case "audio":
                return self._decide_sound(stream)
            case "subtitle":
                return self._decide_subtitle(stream)
            case "attachment" if self._format == MATROSKA:
                return _Fate(stream, "attachment")
            case "attachment":
                return _Fate(stream, None, f"{{are}} left out: {self._refusal}{self._advice}")
            case "video":
                is_cover = stream.disposition & Disposition.attached_pic
                why = "a cover picture" if is_cover else "not the one that is enhanced"
                return _Fate(stream, None, f"{{are}} left out: {why}")
        if self._is_carried_otherwise(stream):
            return _Fate(stream)
        return _Fate(stream, None, "{are} left out")

    def _decide_sound(self, stream: Stream) -> _Fate:
        if self._audio == "none":
            return _Fate(stream)
        if self._audio == "copy" and self._trial.can_hold(stream, self._format):
            return _Fate(stream, "copy")
        if stream.codec_context is None:
            return self._refused(stream, None, "left out")
        if self._audio == "aac":
            return _Fate(stream, "aac")
        return self._refused(stream, "aac", "re-encoded to AAC")

    def _decide_subtitle(self, stream: Stream) -> _Fate:
        if self._trial.can_hold(stream, self._format):
            return _Fate(stream, "copy")
        text = TEXT_OF_FORMAT.get(self._format)
        if text is None or codec_name(stream) not in TEXT_CODECS:
            return self._refused(stream, None, "left out")
        return self._refused(stream, "text", f"rewritten as plain text ({text})")

    def _refused(self, stream: Stream, how: How | None, change: str) -> _Fate:
        is_kept = self._format != MATROSKA and self._trial.can_hold(stream, MATROSKA)
        advice = self._advice if is_kept else ""
        return _Fate(stream, how, f"{{are}} {change}: {self._refusal}{advice}")

    def _is_carried_otherwise(self, stream: Stream) -> bool:
        """Tell whether a data track holds chapters, or a time code that metadata hold too."""
        if stream.discard == Discard.all:  # the text track that holds the chapters of an MP4
            return True
        return "timecode" in stream.metadata and self._format != "avi"


def _origin(clip: Clip, carried: Sequence[CarriedTrack]) -> Fraction:
    """Find the start of the earliest track that is kept; 0 where it starts before 0."""
    kept = {track.index for track in carried}
    starts = [t.start for t in clip.tracks if t.index in kept and t.start is not None]
    return max(Fraction(0), min((clip.times[0], *starts)))


# --- words -------------------------------------------------------------------------------------


def _notes(fates: Sequence[_Fate]) -> Iterator[str]:
    """Describe every change, in one line for all tracks of a kind that share it."""
    groups: dict[tuple[str, str], list[Stream]] = {}
    for fate in fates:
        if fate.note:
            groups.setdefault((fate.stream.type, fate.note), []).append(fate.stream)
    for (_, note), streams in groups.items():
        words = {"are": "is", "them": "it"} if len(streams) == 1 else {"are": "are", "them": "them"}
        yield f"{_subject(streams)} {note.format(**words)}"


def _subject(streams: Sequence[Stream]) -> str:
    """Name tracks by number and codec, attachments by their file."""
    kind = streams[0].type
    noun = _NOUNS.get(kind, "track") + "s" * (len(streams) > 1)
    if kind == "attachment":
        return f"the {noun} {', '.join(map(file_name, streams))}"
    numbers = ", ".join(str(stream.index) for stream in streams)
    codecs = ", ".join(dict.fromkeys(map(codec_name, streams)))
    return f"{noun} {numbers} ({codecs})"


def file_name(attachment: Stream) -> str:
    """Get the file name of an attachment."""
    return attachment.metadata.get("filename") or f"attachment-{attachment.index}"


def _folder_notes(others: Sequence[Stream], chapters: int) -> tuple[str, ...]:
    """Name everything but pictures that the input has."""
    kinds = {stream.type for stream in others}
    named = {"audio": "sound", "subtitle": "subtitles", "attachment": "attachments"}
    lost = [words for kind, words in named.items() if kind in kinds] + ["chapters"] * (chapters > 0)
    if not lost:
        return ()
    told = " and ".join(filter(None, (", ".join(lost[:-1]), lost[-1])))
    return (f"left out: {told}; a folder of PNG files holds only pictures",)
