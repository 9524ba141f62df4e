"""Frames as PNG files, of 8 or 16 bits, with or without alpha."""

from fractions import Fraction

from av.codec import CodecContext
from av.video.codeccontext import VideoCodecContext

from venhancer.video.colour import UNSPECIFIED, Colour, Picture
from venhancer.video.yuv import YUVMaker

_FORMATS = {  # by type and channels
    ("uint8", 3): "rgb24",
    ("uint8", 4): "rgba",
    ("uint16", 3): "rgb48be",
    ("uint16", 4): "rgba64be",
}


def encode_png(frame: Picture, colour: Colour | None = None) -> bytes:
    """Encode uint8 or uint16 H W 3, or H W 4 with alpha, as a PNG file, lightly compressed.

    colour: of an HDR picture, whose primaries and transfer curve are then written.
    A 720p frame takes 40 ms, against 226 ms by default for a file 3 % smaller.
    """
    colour = colour if colour is not None and colour.is_hdr else Colour()
    context = CodecContext.create("png", "w")
    assert isinstance(context, VideoCodecContext)
    context.height, context.width = frame.shape[:2]
    context.pix_fmt = _FORMATS[frame.dtype.name, frame.shape[2]]
    context.time_base = Fraction(1, 24)
    context.options = {"compression_level": "1", "pred": "up"}
    context.color_primaries = colour.primaries or UNSPECIFIED
    context.color_trc = colour.transfer or UNSPECIFIED
    image = YUVMaker(context.pix_fmt, colour).make(frame)
    return b"".join(bytes(p) for p in (*context.encode(image), *context.encode(None)))
