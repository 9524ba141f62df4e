"""Video that is read and written again, without a change between, keeps its codes and its tags."""

from itertools import product

import av
import numpy as np
import pytest

from tests.support.video_parts import FPS
from venhancer.video.probe import probe, read_frames
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
    """Make a frame of all codes of luma, over another of the chroma that RGB holds in the middle.

    Levels of grey and RGB are ramps of all codes too.
    """
    frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
    depth = depth_of(pixel_format)
    step, largest = 2 ** (depth - 8), 2**depth - 1
    is_full = value_range == FULL or frame.format.is_rgb
    low, high = (0, largest) if is_full else (16 * step, 235 * step)
    for number, plane in enumerate(planes_of(frame)):
        ramp = np.linspace(low, high, plane.shape[1])
        plane[...] = np.rint(ramp[::-1] if number else ramp)
        if not number or frame.format.is_rgb:
            continue
        half = plane.shape[0] // 2
        reach = (largest if is_full else 224 * step) * (0.2 if number == 1 else -0.2)
        plane[:half] = 128 * step
        plane[half:] = np.rint(128 * step + np.linspace(-reach, reach, plane.shape[1]))
    if len(frame.planes) == 3 and not frame.format.is_rgb:
        planes_of(frame)[0][HEIGHT // 2 :] = (low + high) // 2
    return frame


def write_source(path, pixel_format, matrix, value_range):
    """Write three lossless frames of ramps."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=FPS, options={"level": "3"})
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        context.colorspace, context.color_range = matrix, value_range
        context.color_primaries, context.color_trc = (9, PQ) if matrix == 9 else (1, 1)
        for _ in range(3):
            frame = ramps(pixel_format, value_range)
            frame.colorspace, frame.color_range = matrix, value_range
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def first_frame(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def tags(frame):
    return (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)


CASES = [
    *product(YUV, (1, 6, 9), (LIMITED, FULL)),
    *product(GREY, (1,), (LIMITED, FULL)),
    *product(RGB, (0,), (FULL,)),
]


@pytest.mark.parametrize(("pixel_format", "matrix", "value_range"), CASES)
def test_codes_and_tags_come_back(tmp_path, pixel_format, matrix, value_range):
    """Every component is at most one code of its depth away on average, and no tag changes."""
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

    before, after = first_frame(source), first_frame(tmp_path / "out.mkv")
    assert after.format.name == pixel_format
    assert tags(after) == tags(before)
    errors = [
        np.abs(a.astype(float) - b).mean()
        for a, b in zip(planes_of(after), planes_of(before), strict=True)
    ]
    print("ERR", pixel_format, matrix, value_range, np.round(errors,3),[np.abs(a.astype(float) - b).max() for a, b in zip(planes_of(after), planes_of(before), strict=True)])
    assert max(errors) <= 1
