"""Video that is read and written again, without a change between, keeps its codes and its tags."""

from itertools import product

import av
import numpy as np
import pytest

from tests.support.video_parts import FPS
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import open_writer

WIDTH, HEIGHT = 512, 64
LIMITED, FULL = 1, 2
PQ = 16
YUV = [f"yuv{chroma}p{end}" for chroma in ("420", "422", "444") for end in ("", "10le", "12le")]
GREY = ["gray", "gray10le", "gray12le"]
RGB = ["bgr0", "gbrp10le", "gbrp12le"]


def depth_of(pixel_format):
    return av.VideoFormat(pixel_format).components[0].bits


def planes_of(frame):
    """View the planes of a frame, without the padding of their lines; packed pixels are one."""
    depth, packed = depth_of(frame.format.name), 4 if frame.format.name == "bgr0" else 1
    kind = np.uint8 if depth == 8 else np.uint16
    return [
        np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width * packed]
        for plane in frame.planes
    ]


def ramps(pixel_format, value_range):
    """Make two frames: all codes of luma, or levels of RGB, and the chroma of a middle grey."""
    depth, is_rgb = depth_of(pixel_format), av.VideoFormat(pixel_format).is_rgb
    step, largest = 2 ** (depth - 8), 2**depth - 1
    is_full = value_range == FULL or is_rgb
    low, high = (0, largest) if is_full else (16 * step, 235 * step)
    reach = 0.2 * (largest if is_full else 224 * step)  # more is no colour of RGB
    for middle in (False, True):
        frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
        for number, plane in enumerate(planes_of(frame)):
            begin, end = low, high
            if number and not is_rgb:
                begin, end = 128 * step - middle * reach, 128 * step + middle * reach
            elif middle:
                begin = end = (low + high) // 2
            ramp = np.rint(np.linspace(begin, end, plane.shape[1]))
            plane[...] = ramp[::-1] if number == 1 else ramp
        yield frame


def write_source(path, pixel_format, matrix, value_range):
    """Write the ramps without loss."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=FPS, options={"level": "3"})
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        context.colorspace, context.color_range = matrix, value_range
        context.color_primaries, context.color_trc = (9, PQ) if matrix == 9 else (1, 1)
        for frame in ramps(pixel_format, value_range):
            frame.colorspace, frame.color_range = matrix, value_range
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def tags(frame):
    return (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)


CASES = [
    *product(YUV, (1, 6, 9), (LIMITED, FULL)),
    *product(GREY, (1,), (LIMITED, FULL)),
    *product(RGB, (0,), (FULL,)),
]


@pytest.mark.parametrize(("pixel_format", "matrix", "value_range"), CASES)
def test_codes_and_tags_come_back(tmp_path, pixel_format, matrix, value_range):
    """No component is more than one code of its depth away, and no tag changes."""
    source = write_source(tmp_path / "in.mkv", pixel_format, matrix, value_range)
    clip = probe(source)

    with open_writer(
        tmp_path / "out.mkv",
        width=WIDTH,
        height=HEIGHT,
        fps=clip.fps,
        source=clip,
        codec="ffv1",
        pixel_format=pixel_format,
    ) as writer:
        for frame, time in zip(read_frames(clip), clip.times, strict=True):
            writer.write(frame, time)

    before, after = decoded(source), decoded(tmp_path / "out.mkv")
    assert [frame.format.name for frame in after] == [pixel_format] * 2
    assert [tags(frame) for frame in after] == [tags(frame) for frame in before]
    for planes in zip(map(planes_of, after), map(planes_of, before), strict=True):
        errors = [np.abs(a.astype(float) - b) for a, b in zip(*planes, strict=True)]
        assert max(error.max() for error in errors) <= 1
        assert max(error.mean() for error in errors) < (0.6 if depth_of(pixel_format) == 8 else 0.1)
