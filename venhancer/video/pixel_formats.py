"""Pixel formats that an output may have, in order of preference."""

import re
from collections.abc import Iterable, Iterator

from av.video.format import VideoFormat

# of planar and semi-planar formats, by bits and chroma; the second is what GPUs take
_NAMES = {
    8: {"420": ("yuv420p", "nv12"), "422": ("yuv422p",), "444": ("yuv444p",)},
    10: {
        "420": ("yuv420p10le", "p010le"),
        "422": ("yuv422p10le",),
        "444": ("yuv444p10le", "yuv444p10msble"),
    },
    12: {"420": ("yuv420p12le", "p012le"), "422": ("yuv422p12le",), "444": ("yuv444p12le",)},
}
_RGB = ("gbrp", "rgb24", "bgr0")  # of encoders without YUV
_CHROMA = {  # by the size of the chroma planes of 8x8 pixels
    (8, 8): "444",
    (4, 8): "422",
    (4, 4): "420",
    (8, 4): "440",
    (2, 8): "411",
    (2, 2): "410",
}


def bits(pixel_format: str) -> int:
    """Return the bits of a component."""
    return max(component.bits for component in VideoFormat(pixel_format).components)


def fuller_chroma(pixel_format: str) -> str | None:
    """Name the chroma of a YUV format (yuv444, yuv422) that has more of it than 4:2:0."""
    found = VideoFormat(pixel_format)
    if found.is_rgb or found.has_palette or len(found.components) < 3:
        return None
    size = found.chroma_width(8), found.chroma_height(8)
    if size in ((4, 4), (2, 8), (2, 2)):
        return None
    return "yuv422" if size == (4, 8) else "yuv444"


def is_transparent(pixel_format: str) -> bool:
    """Tell whether a format has alpha."""
    return any(component.is_alpha for component in VideoFormat(pixel_format).components)


def is_writable(pixel_format: str) -> bool:
    """Tell whether frames can be converted to a format: not to palettes, floats or GPU memory."""
    try:
        found = VideoFormat(pixel_format)
    except ValueError:
        return False
    if found.has_palette or not found.components or re.search("f(16|32)", pixel_format):
        return False
    if is_transparent(pixel_format) and not (found.is_rgb or pixel_format.startswith("yuva")):
        return False
    return 5 <= bits(pixel_format) <= 16


def default_formats(depth: int, has_odd_size: bool) -> Iterator[str]:
    """Yield formats for video of a depth: as deep first, then deeper, then less deep.

    Only 4:4:4 holds odd sizes exactly.
    """
    for known in _by_depth(_NAMES, depth):
        for chroma in ("444",) if has_odd_size else ("420", "422", "444"):
            yield from _NAMES[known][chroma]
    yield from _RGB


def formats_with_alpha(depth: int) -> Iterator[str]:
    """Yield formats for video with alpha, in the same order of depths."""
    yield from (f"yuva444p{_suffix(known)}" for known in _by_depth((8, 10, 12, 16), depth))


def _by_depth(depths: Iterable[int], wanted: int) -> list[int]:
    """Sort increasing depths: as deep as wanted first, then deeper, then less deep."""
    return sorted(depths, key=lambda known: (known < wanted, abs(known - wanted)))


def like_source(pixel_format: str, depth: int, has_odd_size: bool, alpha: bool) -> Iterator[str]:
    """Yield planar formats that hold all of a source's format; alpha: with or without it."""
    found, end = VideoFormat(pixel_format), _suffix(depth)
    if found.is_rgb or found.has_palette:
        yield from _like_rgb(end, alpha)
        return
    has_chroma = any(component.is_chroma for component in found.components[1:])
    is_grey = len(found.components) < 3
    if is_grey and not alpha:
        yield f"gray{end}"
    chroma = _CHROMA.get((found.chroma_width(8), found.chroma_height(8)), "444")
    if is_grey or has_odd_size or not has_chroma:
        chroma = "444"
    for known in (chroma, "444"):
        yield f"yuv{'a' * alpha}{known}p{end}"
    yield f"yuv{'a' * alpha}{chroma}p16le"


def _like_rgb(end: str, alpha: bool) -> Iterator[str]:
    if not end:
        yield "bgra" if alpha else "bgr0"  # FFV1 has no planar RGB of 8 bits
    yield f"gbr{'a' * alpha}p{end}"


def _suffix(depth: int) -> str:
    return "" if depth <= 8 else f"{depth}le"
