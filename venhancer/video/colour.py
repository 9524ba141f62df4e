"""RGB <-> YUV with the matrix and the range of the source, and frames turned upright."""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

BT709 = 1
SMPTE170M = 6  # the usual tag of bt601
UNSPECIFIED = 2
LIMITED = 1
FULL = 2
PQ, HLG = 16, 18
HD_LINES = 720  # untagged pictures with at least this many lines are taken as bt709

# swscale's numbers of the matrices (FCC 4, BT.601 5, SMPTE 240M 7, BT.2020 9), which PyAV's
# `Colorspace` does not name in all versions
_SCALER_OF_MATRIX = {BT709: 1, 4: 4, 5: 5, SMPTE170M: 5, 7: 7, 9: 9}
_ALWAYS_FULL = ("yuvj", "gray", "ya")
# swscale's flags, which PyAV names since 18: bicubic, accurate rounding, full chroma both ways,
# and the same bits on every processor
_EXACT = 0x4 | 0x40000 | 0x2000 | 0x4000 | 0x80000


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
        if matrix not in _SCALER_OF_MATRIX:
            matrix = BT709 if lines >= HD_LINES else SMPTE170M
        return Colour(
            matrix=matrix,
            range=self.range if self.range in (LIMITED, FULL) else LIMITED,
            primaries=self.primaries,
            transfer=self.transfer,
        )


def found_colour(frame: VideoFrame) -> Colour:
    """Read a frame's colour tags; full range where its pixel format implies it."""
    is_full = frame.format.name.startswith(_ALWAYS_FULL)
    return Colour(
        matrix=None if frame.colorspace == UNSPECIFIED else int(frame.colorspace),
        range=FULL if is_full else int(frame.color_range) or None,
        primaries=_tag(frame.color_primaries),
        transfer=_tag(frame.color_trc),
    )


def _tag(value: int) -> int | None:
    return None if value in (0, UNSPECIFIED) else int(value)


class RGBReader:
    """Converter of decoded frames to upright RGB of one size.

    width, height: pixels after rotation. colour: tags with matrix and range filled in.
    """

    def __init__(self, width: int, height: int, colour: Colour) -> None:
        self.width, self.height, self.colour = width, height, colour
        self._scaler = VideoReformatter()

    def read(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Convert a decoded frame to uint8 H W 3, contiguous; frames of other sizes are resized."""
        matrix = display_matrix(frame)
        size = (self.width, self.height)
        width, height = size[::-1] if is_transposed(matrix) else size
        if not (frame.format.is_rgb or frame.format.has_palette):
            frame.colorspace = self.colour.matrix or UNSPECIFIED
            frame.color_range = self.colour.range or LIMITED
        rgb = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=_EXACT
        )
        image = rgb.to_ndarray().astype(np.uint8, copy=False)
        return np.ascontiguousarray(turn_upright(image, matrix))


class YUVMaker:
    """Converter of RGB frames to YUV of one pixel format, with matrix and range known."""

    def __init__(self, pixel_format: str, colour: Colour) -> None:
        self.pixel_format, self.colour = pixel_format, colour
        self._scaler = VideoReformatter()

    def make(self, frame: NDArray[np.uint8]) -> VideoFrame:
        """Convert uint8 H W 3 RGB to a frame to encode, with colour tags."""
        colour = self.colour
        assert colour.matrix is not None
        yuv = self._scaler.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
            format=self.pixel_format,
            dst_colorspace=_SCALER_OF_MATRIX[colour.matrix],
            dst_color_range=ColorRange(colour.range or LIMITED),
            interpolation=_EXACT,
        )
        yuv.colorspace = colour.matrix
        yuv.color_primaries = colour.primaries or UNSPECIFIED
        yuv.color_trc = colour.transfer or UNSPECIFIED
        return yuv


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Read (a, b, c, d) of the display matrix: pixel (x, y) is shown at (ax+cy, bx+dy)."""
    try:
        side_data = cast(SideDataContainer, frame.side_data)  # its stub knows one key only
        data = bytes(side_data[SideDataType.DISPLAYMATRIX])
    except KeyError:
        return (1, 0, 0, 1)
    except ValueError:  # PyAV does not know some other side data of this frame, such as Exif
        cos, sin = (round(f(math.radians(frame.rotation))) for f in (math.cos, math.sin))
        return (cos, -sin, sin, cos)
    a, b, _, c, d, *_ = (int(n) for n in np.frombuffer(data, np.int32))
    return (a, b, c, d)


def is_transposed(matrix: tuple[int, int, int, int]) -> bool:
    """Tell whether the matrix swaps width and height (a quarter turn)."""
    return abs(matrix[1]) > abs(matrix[0])


def turn_upright(image: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Apply the nearest of the eight orientations. image: H W 3 -> H W 3 or W H 3."""
    a, b, c, d = matrix
    right, down = a, d
    if is_transposed(matrix):
        image, right, down = image.swapaxes(0, 1), c, b
    if right < 0:
        image = image[:, ::-1]
    return image[::-1] if down < 0 else image
