"""Choice of the encoder, its pixel format and its options for an output."""

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import av
from av.codec import Codec, CodecContext
from av.video.codeccontext import VideoCodecContext

from venhancer.errors import OptionError
from venhancer.options import Speed
from venhancer.video.clip import Clip
from venhancer.video.encoder_table import Family, family_of, prores_profile
from venhancer.video.hdr import svtav1_parameters, x265_parameters
from venhancer.video.holding import MUXERS
from venhancer.video.pixel_formats import (
    bits,
    default_formats,
    formats_with_alpha,
    fuller_chroma,
    is_transparent,
    is_writable,
    like_source,
)
from venhancer.video.target import is_folder_target

_WITH_ALPHA = {".mov": "prores_ks", ".mkv": "ffv1"}
_TRIED_SIZE = (128, 96)
_NARROWEST_DEEP = 64  # pixels; x265 of 10 bits can crash below (seen at 48)
_NAMED_FORMATS = 12  # in a message
_PROFILES_444 = {"h264": "H.264 High 4:4:4 Predictive", "hevc": "H.265 Main 4:4:4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Everything that an encoder is opened with, except for size, times and colours."""

    codec: str  # FFmpeg's name of the encoder
    pixel_format: str
    depth: int  # bits of a component
    options: Mapping[str, str] = field(default_factory=dict)
    tag: str | None = None  # of the codec in the container, where the muxer's own is not wanted
    keeps_alpha: bool = False  # frames are written with alpha
    notes: tuple[str, ...] = ()  # one line each: what is lost, and what would keep it


def choose_encoding(  # noqa: PLR0913  a public interface
    path: Path,
    source: Clip | None,
    width: int,
    height: int,
    *,
    codec: str | None = None,
    pixel_format: str | None = None,
    crf: int = 17,
    speed: Speed = "medium",
    has_alpha: bool = False,
) -> Encoding:
    """Choose how frames of a size are written to `path`; a folder gets PNG files.

    source: its depth and HDR metadata are kept where the encoder can; None: 8-bit video.
    has_alpha: frames have alpha; `keeps_alpha` of the result tells whether it can be written.
    Raises OptionError for what FFmpeg, the encoder or the container cannot do.
    """
    if is_folder_target(path):
        return _folder_encoding(source, has_alpha)
    codec = codec or _default_codec(path, source, (width, height), pixel_format, has_alpha)
    family, encoder = family_of(codec), _encoder(codec)
    if not 0 <= crf <= family.worst:
        raise OptionError(f"crf of {codec} should be between 0 and {family.worst}, got {crf}")
    _check_container(path, codec)
    if pixel_format is None:
        pixel_format = _default_format(encoder, source, (width, height), has_alpha)
    else:
        _check_format(encoder, pixel_format)
    encoding = Encoding(
        codec=codec,
        pixel_format=pixel_format,
        depth=bits(pixel_format),
        options=_options(codec, source, pixel_format, crf, speed),
        tag=_tag(path, encoder),
        keeps_alpha=has_alpha and family.has_alpha and is_transparent(pixel_format),
    )
    return replace(encoding, notes=tuple(_notes(encoding, source, (width, height))))


def keeps_alpha(path: Path, source: Clip, codec: str | None, pixel_format: str | None) -> bool:
    """Tell whether the alpha of a source can be written; if not, it is put over black before.

    Raises OptionError like `choose_encoding`.
    """
    if not source.has_alpha:
        return False
    return choose_encoding(
        path, source, 2, 2, codec=codec, pixel_format=pixel_format, crf=0, has_alpha=True
    ).keeps_alpha


def _folder_encoding(source: Clip | None, has_alpha: bool) -> Encoding:
    is_deep = source is not None and source.depth > 8
    name = ("rgba64be" if is_deep else "rgba") if has_alpha else ("rgb48be" if is_deep else "rgb24")
    encoding = Encoding(codec="png", pixel_format=name, depth=bits(name), keeps_alpha=has_alpha)
    return replace(encoding, notes=tuple(_hdr_notes(encoding, source)))


@cache
def _encoder(codec: str) -> Codec:
    try:
        encoder = Codec(codec, "w")
    except (av.error.FFmpegError, ValueError) as error:
        raise OptionError(f"{codec!r} is no encoder of this FFmpeg, try libx264") from error
    if encoder.type != "video":
        raise OptionError(f"{codec!r} encodes {encoder.type}, not video")
    return encoder


def _formats(encoder: Codec) -> tuple[str, ...]:
    """List the pixel formats of an encoder; none for one that does not name them."""
    return tuple(found.name for found in encoder.video_formats or ())


def _takes(codec: str, pixel_format: str) -> bool:
    try:
        formats = _formats(_encoder(codec))
    except OptionError:
        return False
    return pixel_format in formats


def _default_codec(
    path: Path,
    source: Clip | None,
    size: tuple[int, int],
    pixel_format: str | None,
    has_alpha: bool,
) -> str:
    """Choose H.264 for 8 bits and H.265 for more; with alpha, what the container holds it with."""
    suffix = path.suffix.lower()
    with_alpha = _WITH_ALPHA.get(suffix) if has_alpha else None
    if with_alpha and (pixel_format is None or _takes(with_alpha, pixel_format)):
        return with_alpha
    if suffix == ".avi":  # cannot hold H.265
        return "libx264"
    is_deep = source is not None and source.depth > 8 and size[0] >= _NARROWEST_DEEP
    order = ("libx265", "libx264") if is_deep else ("libx264", "libx265")
    return next((codec for codec in order if _takes(codec, pixel_format or "yuv420p")), order[0])


def _check_container(path: Path, codec: str) -> None:
    """Ask FFmpeg for a stream of the codec in such a container, in memory."""
    try:
        with av.open(io.BytesIO(), "w", format=MUXERS[path.suffix.lower()]) as trial:
            trial.add_stream(codec, rate=24)
    except (KeyError, ValueError) as error:
        raise OptionError(
            f"{path.suffix} cannot hold video of {codec}: take .mkv, or another --codec"
        ) from error


def check_start(path: Path, encoding: Encoding) -> None:
    """Raise OptionError where the encoder, or the container with it, refuses to begin."""
    if not is_folder_target(path):
        _check_start(path.suffix.lower(), encoding.codec, encoding.pixel_format)


@cache
def _check_start(suffix: str, codec: str, pixel_format: str) -> None:
    """Open the encoder and write a header, in memory."""
    quiet(codec)
    try:
        with av.open(io.BytesIO(), "w", format=MUXERS[suffix]) as trial:
            context = trial.add_stream(codec, rate=24).codec_context
            assert isinstance(context, VideoCodecContext)
            (context.width, context.height), context.pix_fmt = _TRIED_SIZE, pixel_format
            context.options = dict(family_of(codec).options)
            context.open()
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(
            f"{codec} in {pixel_format} cannot be written to {suffix} here ({reason}): try libx264"
        ) from error


def quiet(codec: str) -> None:
    """Silence an encoder that writes its settings to the terminal."""
    if codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # the only way


def _default_format(
    encoder: Codec, source: Clip | None, size: tuple[int, int], has_alpha: bool
) -> str:
    formats = _formats(encoder)
    for name in _wanted_formats(family_of(encoder.name), source, size, has_alpha):
        if name in formats or not formats:
            return name
    advice = ": odd sizes need 4:4:4, take --even" if _is_odd(size) else ", try libx264"
    raise OptionError(
        f"{encoder.name} cannot encode {size[0]}x{size[1]}: it has no format for it{advice}"
    )


def _wanted_formats(
    family: Family, source: Clip | None, size: tuple[int, int], has_alpha: bool
) -> Iterator[str]:
    """Yield pixel formats in order of preference."""
    depth = min(source.depth if source else 8, family.usual_depth)
    alpha = has_alpha and family.has_alpha
    if family.is_lossless and source is not None:
        yield from like_source(source.pixel_format, depth, _is_odd(size), alpha)
    if alpha:
        yield from formats_with_alpha(depth)
    yield from default_formats(depth, _is_odd(size))


def _is_odd(size: tuple[int, int]) -> bool:
    return bool(size[0] % 2 or size[1] % 2)


def _check_format(encoder: Codec, pixel_format: str) -> None:
    formats = _formats(encoder)
    if pixel_format.startswith("yuvj"):
        plain = pixel_format.replace("yuvj", "yuv")
        raise OptionError(f"{pixel_format} is an old name: take {plain}, its range is the input's")
    if not is_writable(pixel_format):
        raise OptionError(f"{pixel_format!r} is no pixel format to write: try yuv420p10le")
    if formats and pixel_format not in formats:
        usable = [name for name in formats if is_writable(name) and not name.startswith("yuvj")]
        more = ", ..." if len(usable) > _NAMED_FORMATS else ""
        named = ", ".join(usable[:_NAMED_FORMATS]) + more
        raise OptionError(f"{encoder.name} has no {pixel_format}: it has {named}")


def _options(
    codec: str, source: Clip | None, pixel_format: str, crf: int, speed: Speed
) -> Mapping[str, str]:
    family = family_of(codec)
    options = {**family.speeds.get(speed, {}), **family.options}
    if family.quality is not None and _has_quality(codec):
        options[family.quality] = str(crf)
    if codec == "prores_ks":
        options["profile"] = prores_profile(pixel_format, crf)
    if family.hdr is not None and source is not None and source.tagged is None:
        parameters = _hdr_parameters(family.hdr, source)
        parts = [options.get(family.hdr, ""), *(f"{k}={v}" for k, v in parameters.items())]
        options[family.hdr] = ":".join(filter(None, parts))
    return {name: value for name, value in options.items() if value}


def _hdr_parameters(option: str, source: Clip) -> dict[str, str]:
    if option == "x265-params":
        return x265_parameters(source.hdr, source.colour.transfer)
    return svtav1_parameters(source.hdr)


def _tag(path: Path, encoder: Codec) -> str | None:
    """Choose hvc1 for H.265 in MP4 and MOV: Apple's players show no hev1."""
    if encoder.canonical_name == "hevc" and MUXERS[path.suffix.lower()] in ("mp4", "mov"):
        return "hvc1"
    return None


def _notes(encoding: Encoding, source: Clip | None, size: tuple[int, int]) -> Iterator[str]:
    encoder = _encoder(encoding.codec)
    if not _has_quality(encoding.codec):
        yield f"{encoding.codec} has no crf: it writes at its own usual quality"
    profile = _PROFILES_444.get(encoder.canonical_name)
    if _is_odd(size) and profile and "444" in encoding.pixel_format:
        yield (
            f"{size[0]}x{size[1]} is odd, so the output is {profile}, which browsers, QuickTime, "
            "phones and TVs do not play: --even avoids that"
        )
    yield from _chroma_notes(encoding, source, size)
    yield from _depth_notes(encoding, source)
    yield from _hdr_notes(encoding, source)


def _has_quality(codec: str) -> bool:
    """Tell whether an encoder has the option that `crf` goes to, or needs none."""
    family = family_of(codec)
    if family.encoders:
        return True
    known = getattr(CodecContext.create(codec, "w"), "supported_options", None)
    return known is None or family.quality in {o.name for o in known.private}  # None: old PyAV


def _chroma_notes(encoding: Encoding, source: Clip | None, size: tuple[int, int]) -> Iterator[str]:
    """Say that colours lose resolution; at twice the size, half of it is as much as before."""
    own = None if source is None else fuller_chroma(source.pixel_format)
    if source is None or own is None:
        return
    written = encoding.pixel_format
    if "420" in written and size[0] < 2 * source.width:
        kept = written.replace("yuv420", own)
        advice = f": --pixel-format {kept} keeps it" if _takes(encoding.codec, kept) else ""
        yield f"colours have half the resolution of the picture in {written}{advice}"


def _depth_notes(encoding: Encoding, source: Clip | None) -> Iterator[str]:
    if source is None:
        return
    if encoding.depth < source.depth:
        yield (
            f"the input has {source.depth} bits, {encoding.codec} writes {encoding.depth} here: "
            f"{_keeping(source.depth, encoding)} keeps them"
        )
    if source.is_hdr and encoding.depth == 8:
        yield "HDR in 8 bits shows bands in smooth areas: keep its bits, or take --hdr sdr"


def _keeping(depth: int, encoding: Encoding) -> str:
    """Say what keeps the bits of a source, and its alpha where it is kept now."""
    keeper, suffixes = ("libx265", ".mp4, .mov, .mkv")
    if depth > 12 or encoding.keeps_alpha:
        keeper, suffixes = ("ffv1", ".mkv")
    if encoding.codec == "libx265" == keeper and encoding.depth == family_of(keeper).usual_depth:
        return "--pixel-format yuv420p12le (few players show that)"
    if encoding.codec == keeper:
        return f"{keeper} without --pixel-format"
    return f"--codec {keeper} ({suffixes})"


def _hdr_notes(encoding: Encoding, source: Clip | None) -> Iterator[str]:
    if source is None or source.tagged or family_of(encoding.codec).hdr is not None:
        return
    parts = {"mastering display": source.hdr.mastering, "light levels": source.hdr.light}
    found = " and ".join(name for name, part in parts.items() if part is not None)
    if found:
        keeper = "-o x.mkv" if encoding.codec == "png" else "--codec libx265"
        yield f"{encoding.codec} does not write the HDR metadata ({found}): {keeper} does"
