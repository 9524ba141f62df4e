"""RGB arrays as frames to encode: YUV, grey or RGB of one pixel format, with colour tags."""

import dataclasses
import re
from typing import Any

import numpy as np
from av import VideoFrame
from av.video.format import VideoFormat
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from venhancer.video.colour import EXACT, FULL, LIMITED, UNSPECIFIED, Colour, Picture, luma_weights
from venhancer.video.planes import scaled, type_of, view

_RGB = 0  # the matrix tag of RGB
_ARRAYS = {"uint8": {3: "rgb24", 4: "rgba"}, "uint16": {3: "rgb48le", 4: "rgba64le"}}


def to_image(frame: Picture) -> VideoFrame:
    """Wrap uint8 or uint16 H W 3, or H W 4 with alpha, as a frame of packed RGB."""
    name = _ARRAYS[frame.dtype.name][frame.shape[2]]
    packed: Any = np.ascontiguousarray(frame)
    return VideoFrame.from_ndarray(packed, format=name)


class YUVMaker:
    """Converter of RGB frames to frames of one pixel format.

    colour: tags with matrix and range filled in; RGB formats have tags of their own for both.
    """

    def __init__(self, pixel_format: str, colour: Colour) -> None:
        self.pixel_format = pixel_format
        self._format = VideoFormat(pixel_format)
        self._depth = max(component.bits for component in self._format.components)
        self.colour = colour
        if self._format.is_rgb:
            self.colour = dataclasses.replace(colour, matrix=_RGB, range=FULL)
        self._scaler = VideoReformatter()

    def make(self, frame: Picture) -> VideoFrame:
        """Convert uint8 or uint16 H W 3, or H W 4 with alpha, to a frame to encode."""
        if self._format.is_rgb:
            made = self._rgb(frame)
        elif len(self._format.components) == 1:
            made = self._grey(frame)
        else:
            made = self._yuv(frame, self.pixel_format)
        self._tag(made)
        return made

    def _yuv(self, frame: Picture, pixel_format: str) -> VideoFrame:
        """Convert to YUV, and copy the alpha, which swscale would round up.

        swscale converts 8 bits. It is up to 4 levels of 10 bits off, so deeper frames come to it as
        YUV 4:4:4, and it only makes the chroma smaller.
        """
        assert self.colour.matrix is not None
        if frame.dtype == np.uint8 and self._depth <= 8:
            image = to_image(frame[..., :3])
            image.colorspace = self.colour.matrix
        else:
            image = _deep_yuv(frame, self.colour, self._depth if self._depth > 8 else 16)
        made = self._scaler.reformat(
            image,
            format=pixel_format,
            dst_color_range=ColorRange(self.colour.range or LIMITED),
            interpolation=EXACT,
        )
        if frame.shape[2] == 4:
            plane = view(made.planes[3], self._depth)
            plane[...] = self._codes(frame[..., 3])
        return made

    def _grey(self, frame: Picture) -> VideoFrame:
        """Take the luma: swscale's own grey always has the full range."""
        luma = self._yuv(frame, self.pixel_format.replace("gray", "yuv444p")).planes[0]
        plane = np.ascontiguousarray(view(luma, self._depth))
        made = VideoFrame.from_ndarray(plane, format=self.pixel_format)
        made.color_range = self.colour.range or LIMITED
        return made

    def _rgb(self, frame: Picture) -> VideoFrame:
        """Rearrange the components; only the number of bits may change, which swscale cuts off."""
        if re.fullmatch(r"gbra?p\d+le", self.pixel_format):
            return self._deep_planes(frame)
        kind = type_of(self._depth)
        frame = scaled(frame, np.iinfo(frame.dtype).max, int(np.iinfo(kind).max), kind)
        return self._scaler.reformat(to_image(frame), format=self.pixel_format, interpolation=EXACT)

    def _codes(self, values: NDArray[Any]) -> NDArray[Any]:
        """Map the whole range of an integer type onto the codes of the format."""
        largest = np.iinfo(values.dtype).max
        return scaled(values, largest, 2**self._depth - 1, type_of(self._depth))

    def _deep_planes(self, frame: Picture) -> VideoFrame:
        """Write planes of green, blue, red, and alpha if there is any, rounded to their bits."""
        made = VideoFrame(frame.shape[1], frame.shape[0], self.pixel_format)
        for plane, component in zip(made.planes, (1, 2, 0, 3), strict=False):
            view(plane, self._depth)[...] = self._codes(frame[..., component])
        return made

    def _tag(self, frame: VideoFrame) -> None:
        assert self.colour.matrix is not None
        frame.colorspace = self.colour.matrix
        frame.color_primaries = self.colour.primaries or UNSPECIFIED
        frame.color_trc = self.colour.transfer or UNSPECIFIED


def _deep_yuv(frame: Picture, colour: Colour, depth: int) -> VideoFrame:
    """Convert H W 3, or H W 4, to YUV 4:4:4 of a depth above 8."""
    levels = frame[..., :3].reshape(-1, 3).T.astype(np.float32)
    values = (_matrix(colour, depth) / np.iinfo(frame.dtype).max).astype(np.float32) @ levels
    step = 2 ** (depth - 8)
    zeros = np.array([[0 if colour.range == FULL else 16], [128], [128]], np.float32)
    values += zeros * step + np.float32(0.5)  # a half, to round
    np.minimum(values, 2**depth - 1, out=values)
    made = VideoFrame(frame.shape[1], frame.shape[0], f"yuv444p{depth}le")
    for plane, component in zip(made.planes, values, strict=True):
        view(plane, depth)[...] = component.reshape(frame.shape[:2])
    assert colour.matrix is not None
    made.colorspace, made.color_range = colour.matrix, colour.range or LIMITED
    return made


def _matrix(colour: Colour, depth: int) -> NDArray[np.float64]:
    """Make the matrix from RGB, 0 to 1, to the codes of Y, U and V, less their zeros."""
    red, blue = luma_weights(colour.matrix)
    luma = np.array([red, 1 - red - blue, blue])
    step, largest = 2 ** (depth - 8), 2**depth - 1
    luma_span, chroma_span = (
        (largest, largest) if colour.range == FULL else (219 * step, 224 * step)
    )
    u = ([0, 0, 1] - luma) / (2 * (1 - blue))
    v = ([1, 0, 0] - luma) / (2 * (1 - red))
    return np.stack([luma_span * luma, chroma_span * u, chroma_span * v])
