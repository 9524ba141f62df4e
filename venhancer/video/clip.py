"""Description of a video, as `probe` finds it: everything that is known before it is enhanced."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from venhancer.options import FOLDER_FPS, USUAL_LIMITS, Deinterlace, HDRMode, InputLimits, Options
from venhancer.video.colour import Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Choices of how a video is read; they change its frames."""

    folder_fps: Fraction = FOLDER_FPS  # of a folder of pictures, or a still image
    stream: int | None = None  # index of the video stream; None: the default or largest one
    deinterlace: Deinterlace = "auto"  # double: one frame for each field
    hdr: HDRMode = "keep"  # sdr: HDR is tone-mapped to BT.709
    limits: InputLimits = USUAL_LIMITS

    @classmethod
    def of(cls, options: Options) -> "Reading":
        """Collect the options of a run that are about reading."""
        return cls(
            folder_fps=options.input_fps or FOLDER_FPS,
            stream=options.stream,
            deinterlace=options.deinterlace,
            hdr=options.hdr,
            limits=options.limits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Stream of a container."""

    index: int
    kind: str  # video, audio, subtitle, attachment, data
    codec: str
    words: str = ""  # what else there is to say: language, title, size, rate
    start: Fraction | None = None  # seconds, of its first packet; None if it has no packets


@dataclass(frozen=True, slots=True, kw_only=True)
class Mastering:
    """Display that an HDR video was mastered on (SMPTE ST 2086)."""

    red: tuple[Fraction, Fraction]  # chromaticities x, y
    green: tuple[Fraction, Fraction]
    blue: tuple[Fraction, Fraction]
    white: tuple[Fraction, Fraction]
    darkest: Fraction  # luminance in cd/m2
    brightest: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class HDR:
    """Static metadata of an HDR video; None where the video has none."""

    mastering: Mastering | None = None
    light: tuple[int, int] | None = None  # MaxCLL and MaxFALL (CTA-861.3), cd/m2


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Result of `probe`. Sizes are pixels after rotation, times are seconds as stored."""

    path: Path
    width: int
    height: int
    times: tuple[Fraction, ...]  # of every frame that can be decoded, strictly increasing
    fps: Fraction
    is_variable: bool
    end: Fraction  # last time + duration of the last frame
    codec: str
    pixel_format: str
    colour: Colour  # as tagged; `working_colour` is what conversions use
    reading: Reading = field(default_factory=Reading)
    stream: int = 0  # index of the video stream that is read
    stored: tuple[Fraction, ...] = ()  # times of decoded frames, where they differ from `times`
    can_seek: bool = True  # decoding may begin within the file
    tagged: Colour | None = None  # tags of the file, where its frames are tone-mapped to `colour`
    depth: int = 8  # bits of a component; above 8, frames are read as uint16
    hdr: HDR = field(default_factory=HDR)
    has_alpha: bool = False
    is_over_black: bool = False  # frames are read with the alpha composited over black
    is_interlaced: bool = False  # frames are deinterlaced as they are read
    tracks: tuple[Track, ...] = ()  # all streams of the container
    notes: tuple[str, ...] = ()  # one line each, told before the work: what is not carried over
    damage: str | None = None  # one line if not everything could be read
    is_folder: bool = False
    lines: int = 0  # picture lines before rotation; 0: the same as `height`
    sample_aspect: Fraction = Fraction(1)  # width : height of a pixel, after rotation
    cuts: tuple[int, ...] = ()  # frames that begin a new scene, increasing, never 0
    pauses: tuple[int, ...] = ()  # frames that come after a pause, increasing, never 0
    burst_fps: Fraction | None = None  # rate between pauses, if it is variable

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last one."""
        return self.end - self.times[0]

    @property
    def frame_type(self) -> DTypeLike:
        """Type of the frames that are read: uint8, or uint16 over its whole range."""
        return np.uint8 if self.depth <= 8 else np.uint16

    @property
    def stored_times(self) -> tuple[Fraction, ...]:
        """Times of the frames as the decoder gives them."""
        return self.stored or self.times

    @property
    def source_colour(self) -> Colour:
        """Tags of the file with matrix and range filled in."""
        return (self.tagged or self.colour).resolved(self.lines or self.height)

    @property
    def is_hdr(self) -> bool:
        """True if frames are read with an HDR transfer curve (PQ or HLG)."""
        return self.colour.is_hdr

    @property
    def gives_alpha(self) -> bool:
        """True if alpha is read beside the colours, and not used up by putting them over black."""
        return self.has_alpha and not self.is_over_black

    @property
    def audio(self) -> str | None:
        """Codec of the first audio track."""
        return next((track.codec for track in self.tracks if track.kind == "audio"), None)

    @property
    def subtitles(self) -> tuple[str, ...]:
        """Codecs of the subtitle tracks."""
        return tuple(track.codec for track in self.tracks if track.kind == "subtitle")

    @property
    def working_colour(self) -> Colour:
        """The tags with matrix and range filled in, for both directions of the conversion."""
        return self.colour.resolved(self.lines or self.height)
