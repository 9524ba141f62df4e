"""Colour tags of videos, and what their matrices mean."""

from dataclasses import dataclass

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

Picture = NDArray[np.uint8] | NDArray[np.uint16]  # H W, or H W 3 or 4; over the whole range

BT709 = 1
SMPTE170M = 6  # the usual tag of bt601
UNSPECIFIED = 2
LIMITED = 1
FULL = 2
PQ, HLG = 16, 18
HD_LINES = 720  # untagged pictures with at least this many lines are taken as bt709

_LUMA_WEIGHTS = {  # of red and blue (ITU-T H.273)
    BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    SMPTE170M: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
# swscale's flags, which PyAV names since 18: bicubic, accurate rounding, full chroma both ways,
# and the same bits on every processor
EXACT = 0x4 | 0x40000 | 0x2000 | 0x4000 | 0x80000


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """Colour tags as FFmpeg numbers them (ITU-T H.273); None where the source has none."""

    matrix: int | None = None
    range: int | None = None
    primaries: int | None = None
    transfer: int | None = None

    @property
    def is_hdr(self) -> bool:
        """True for the transfer curves PQ (SMPTE ST 2084) and HLG (ARIB STD-B67)."""
        return self.transfer in (PQ, HLG)

    def resolved(self, lines: int) -> "Colour":
        """Fill in missing matrix and range: bt709 from 720 lines up, else bt601; limited range.

        A matrix that cannot be converted (RGB, YCgCo, ...) is replaced by the same rule.
        """
        matrix = self.matrix
        if matrix not in _LUMA_WEIGHTS:
            matrix = BT709 if lines >= HD_LINES else SMPTE170M
        return Colour(
            matrix=matrix,
            range=self.range if self.range in (LIMITED, FULL) else LIMITED,
            primaries=self.primaries,
            transfer=self.transfer,
        )


def luma_weights(matrix: int | None) -> tuple[float, float]:
    """Return how much red and blue count in luma; green counts the rest."""
    return _LUMA_WEIGHTS[matrix or BT709]


def found_colour(frame: VideoFrame) -> Colour:
    """Read a frame's colour tags.

    The range is full where the pixel format implies it, and unknown for RGB, whose levels always
    take the whole range: a YUV video made from it has the limited range, as players expect.
    """
    if frame.format.is_rgb or frame.format.has_palette:
        return Colour(primaries=_tag(frame.color_primaries), transfer=_tag(frame.color_trc))
    is_full = frame.format.name.startswith("yuvj")
    return Colour(
        matrix=None if frame.colorspace == UNSPECIFIED else int(frame.colorspace),
        range=FULL if is_full else int(frame.color_range) or None,
        primaries=_tag(frame.color_primaries),
        transfer=_tag(frame.color_trc),
    )


def _tag(value: int) -> int | None:
    return None if value in (0, UNSPECIFIED) else int(value)
