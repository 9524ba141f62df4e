"""Decoded frames as upright RGB of one size, and their alpha.

Frames of 8 bits are converted by swscale. It is up to 4 levels of 10 bits off, so deeper frames and
grey ones with a limited range are converted here; only their chroma is enlarged by swscale.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from av import VideoFrame
from av.video.format import VideoFormat
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from venhancer.video.colour import EXACT, FULL, LIMITED, UNSPECIFIED, Colour, Picture, luma_weights
from venhancer.video.orientation import display_matrix, is_transposed, turn_upright
from venhancer.video.planes import scaled, type_of, view

_DEPTHS = (8, 9, 10, 12, 14, 16)  # that planar formats come in


def depth_of(pixel_format: VideoFormat) -> int:
    """Return the bits of a component: 8 for all that has no more, 16 for floats."""
    if pixel_format.has_palette:
        return 8
    bits = max(component.bits for component in pixel_format.components)
    return next((depth for depth in _DEPTHS if depth >= bits), _DEPTHS[-1])


def has_alpha(pixel_format: VideoFormat) -> bool:
    """Tell whether frames of this format may have alpha; palettes may."""
    return pixel_format.has_palette or any(c.is_alpha for c in pixel_format.components)


def has_transparency(frame: VideoFrame) -> bool:
    """Tell whether any pixel of a frame is not opaque."""
    if not has_alpha(frame.format):
        return False
    alpha = VideoReformatter().reformat(frame, format="rgba").to_ndarray()[..., 3]
    return bool(alpha.min() < np.iinfo(np.uint8).max)


@dataclass(frozen=True, slots=True)
class _Place:
    """Size of a frame before it is turned upright, and where it lies in the wanted picture."""

    width: int
    height: int
    matrix: tuple[int, int, int, int]
    rows: slice
    columns: slice


class RGBReader:
    """Converter of decoded frames to upright RGB of one size.

    width, height: pixels after rotation. colour: tags with matrix and range filled in.
    depth: of the frames that are read; above 8 they are uint16 over the whole range.
    """

    def __init__(self, width: int, height: int, colour: Colour, depth: int = 8) -> None:
        self.width, self.height, self.colour = width, height, colour
        self.kind = type_of(depth)
        self.largest = int(np.iinfo(self.kind).max)
        self._scaler = VideoReformatter()

    def read(self, frame: VideoFrame) -> Picture:
        """Convert a decoded frame to H W 3, contiguous; others of another shape get black bars."""
        place = self._place(frame)
        return self._placed(self._rgb(frame, place), place)

    def alpha(self, frame: VideoFrame) -> Picture:
        """Read the alpha of a frame: H W, contiguous, of the same type as `read`."""
        place = self._place(frame)
        if not has_alpha(frame.format):
            found = np.full((place.height, place.width), self.largest, self.kind)
        else:
            found = self._alpha(frame, place)
        return self._placed(found, place)

    def over_black(self, frame: VideoFrame) -> Picture:
        """Convert a frame like `read`, composited over black by its alpha."""
        shown = self.read(frame) * (self.alpha(frame)[..., None] / np.float32(self.largest))
        return np.asarray(np.rint(shown).astype(self.kind))

    def _place(self, frame: VideoFrame) -> _Place:
        """Fit the frame into the wanted size; a shape that differs by rounding fills it."""
        matrix = display_matrix(frame)
        own = (frame.width, frame.height)
        width, height = own[::-1] if is_transposed(matrix) else own
        scale = min(self.width / width, self.height / height)
        fitted = [max(1, round(scale * width)), max(1, round(scale * height))]
        fitted = [
            whole if whole - part <= 2 else part
            for whole, part in zip((self.width, self.height), fitted, strict=True)
        ]
        left, top = (self.width - fitted[0]) // 2, (self.height - fitted[1]) // 2
        rows, columns = slice(top, top + fitted[1]), slice(left, left + fitted[0])
        if is_transposed(matrix):
            fitted.reverse()
        return _Place(fitted[0], fitted[1], matrix, rows, columns)

    def _placed(self, image: NDArray[Any], place: _Place) -> Picture:
        upright = turn_upright(image, place.matrix)
        shape = (self.height, self.width, *image.shape[2:])
        if upright.shape == shape:
            return np.ascontiguousarray(upright)
        canvas = np.zeros(shape, self.kind)
        canvas[place.rows, place.columns] = upright
        return canvas

    def _reformat(self, frame: VideoFrame, place: _Place, name: str) -> VideoFrame:
        if not (frame.format.is_rgb or frame.format.has_palette):
            frame.colorspace = self.colour.matrix or UNSPECIFIED
            frame.color_range = self.colour.range or LIMITED
        return self._scaler.reformat(
            frame, width=place.width, height=place.height, format=name, interpolation=EXACT
        )

    def _whole(self, values: NDArray[Any], largest: float) -> NDArray[Any]:
        """Map values from 0 to `largest` onto the whole range of what is read."""
        return scaled(values, largest, self.largest, self.kind)

    def _alpha(self, frame: VideoFrame, place: _Place) -> NDArray[Any]:
        """Read alpha in the size of `place`: h w."""
        depth = depth_of(frame.format)
        if depth == 8:
            plane = self._reformat(frame, place, "rgba").to_ndarray()[..., 3]
        else:
            family = "gbrap" if frame.format.is_rgb else "yuva444p"
            plane = _planes(self._reformat(frame, place, f"{family}{depth}le"))[3]
        return self._whole(plane, 2**depth - 1)

    def _rgb(self, frame: VideoFrame, place: _Place) -> NDArray[Any]:
        """Convert to RGB in the size of `place`: h w 3."""
        depth = depth_of(frame.format)
        suffix = "" if depth == 8 else f"{depth}le"
        if frame.format.name.startswith(("gray", "ya")):
            [grey] = _planes(self._reformat(frame, place, f"gray{suffix}"))
            luma = _luma(grey, self.colour.range, depth)
            return np.repeat(self._whole(luma, 1)[..., None], 3, axis=2)
        if self.kind == np.uint8:
            return np.asarray(self._reformat(frame, place, "rgb24").to_ndarray())
        if frame.format.is_rgb or frame.format.has_palette:
            family = "gbrap" if has_alpha(frame.format) else "gbrp"  # swscale drops no alpha here
            green, blue, red, *_ = _planes(self._reformat(frame, place, f"{family}{suffix}"))
            return self._whole(np.stack([red, green, blue], axis=2), 2**depth - 1)
        planes = _planes(self._reformat(frame, place, f"yuv444p{suffix}"))
        return self._whole(_from_yuv(planes, self.colour, depth), 1)


def _planes(frame: VideoFrame) -> list[NDArray[Any]]:
    """View the planes of a planar frame: h w each."""
    depth = depth_of(frame.format)
    return [view(plane, depth) for plane in frame.planes]


def _luma(plane: NDArray[Any], value_range: int | None, depth: int) -> NDArray[np.float32]:
    """Convert code values of luma to 0 to 1."""
    step = 2 ** (depth - 8)
    if value_range == FULL:
        return np.asarray(plane * np.float32(1 / (2**depth - 1)))
    return np.asarray((plane - np.float32(16 * step)) * np.float32(1 / (219 * step)))


def _chroma(plane: NDArray[Any], value_range: int | None, depth: int) -> NDArray[np.float32]:
    """Convert code values of chroma to -0.5 to 0.5."""
    step = 2 ** (depth - 8)
    span = 2**depth - 1 if value_range == FULL else 224 * step
    return np.asarray((plane - np.float32(128 * step)) * np.float32(1 / span))


def _from_yuv(planes: list[NDArray[Any]], colour: Colour, depth: int) -> NDArray[np.float32]:
    """Convert Y, U and V (h w each) to RGB by the matrix of `colour`: h w 3, about 0 to 1."""
    y = _luma(planes[0], colour.range, depth)
    u, v = (_chroma(plane, colour.range, depth) for plane in planes[1:])
    red, blue = luma_weights(colour.matrix)
    green = 1 - red - blue
    rgb = np.empty((*y.shape, 3), np.float32)
    rgb[..., 0] = y + np.float32(2 * (1 - red)) * v
    rgb[..., 2] = y + np.float32(2 * (1 - blue)) * u
    u *= np.float32(2 * blue * (1 - blue) / green)
    v *= np.float32(2 * red * (1 - red) / green)
    rgb[..., 1] = y - u - v
    return rgb
