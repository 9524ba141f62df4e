"""Read the frames of a clip, from any frame on, as RGB; and their alpha."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import av
from av.container import InputContainer

from venhancer.errors import VideoError
from venhancer.video.clip import Clip
from venhancer.video.colour import Picture
from venhancer.video.decode import decode
from venhancer.video.fields import REACH, deinterlaced
from venhancer.video.folders import numbered_pngs, read_picture
from venhancer.video.inputs import open_input
from venhancer.video.orientation import upright_size
from venhancer.video.rgb import RGBReader
from venhancer.video.streams import video_stream
from venhancer.video.tone_mapping import ToneMapper

_SEEK_FRAMES = 100  # closer than this, decoding and dropping frames is as fast as seeking
_SEEK_MARGIN = 1  # seconds before the frame asked for


def read_frames(clip: Clip, start: int = 0, stop: int | None = None) -> Iterator[Picture]:
    """Read frames [start:stop] that `probe` counted, each H W 3 RGB, upright, contiguous.

    They are uint8, or uint16 over the whole range where `clip.depth` is above 8.
    Raises VideoError when the file gives fewer frames than it did at the probe.
    """
    return _read(clip, start, stop, _converter(clip))


def read_alpha(clip: Clip, start: int = 0, stop: int | None = None) -> Iterator[Picture]:
    """Read the alpha of the same frames, each H W, of the same type."""
    return _read(clip, start, stop, _reader(clip).alpha)


def _reader(clip: Clip) -> RGBReader:
    return RGBReader(clip.width, clip.height, clip.working_colour, clip.depth)


def _converter(clip: Clip) -> Callable[[av.VideoFrame], Picture]:
    """Choose what makes a decoded frame RGB."""
    if clip.tagged is not None:
        deep = RGBReader(clip.width, clip.height, clip.source_colour, depth=16)
        mapper = ToneMapper(clip.source_colour, clip.hdr)
        return lambda frame: mapper.map(deep.read(frame))
    reader = _reader(clip)
    return reader.over_black if clip.is_over_black else reader.read


def _read(
    clip: Clip, start: int, stop: int | None, convert: Callable[[av.VideoFrame], Picture]
) -> Iterator[Picture]:
    wanted = range(clip.frames)[start:stop]
    decoded = _folder_frames if clip.is_folder else _file_frames
    given = 0
    for frame in islice(decoded(clip, wanted.start), len(wanted)):
        given += 1
        yield convert(frame)
    if given < len(wanted):
        raise VideoError(f"{clip.path} gave {given} frames where it had {len(wanted)}: it changed")


def _folder_frames(clip: Clip, start: int) -> Iterator[av.VideoFrame]:
    for file in numbered_pngs(clip.path)[start:]:
        frame = read_picture(file, clip.reading.limits)
        if upright_size(frame) != (clip.width, clip.height):
            raise VideoError(f"{file} changed its size since it was probed")
        yield frame


def _file_frames(clip: Clip, start: int) -> Iterator[av.VideoFrame]:
    """Decode from `start` on, deinterlaced where the clip is."""
    if not clip.is_interlaced:
        yield from _decoded(clip, start)
        return
    is_double = clip.reading.deinterlace == "double"
    fields = 2 if is_double else 1
    first = max(start // fields - REACH, 0)
    frames = deinterlaced(_decoded(clip, first), is_double)
    yield from islice(frames, start - first * fields, None)


def _decoded(clip: Clip, start: int) -> Iterator[av.VideoFrame]:
    """Decode the stored frames from `start` on."""
    limits = clip.reading.limits
    with open_input(clip.path, limits) as container:
        frames = _after_seek(container, clip, start)
        if frames is not None:
            yield from frames
            return
    with open_input(clip.path, limits) as container:
        decoded = decode(container, _stream(container, clip), limits=limits)
        yield from (frame for frame, _ in islice(decoded, start, None))


def _stream(container: InputContainer, clip: Clip) -> Any:
    return video_stream(container, clip.path, clip.stream)


def _after_seek(
    container: InputContainer, clip: Clip, start: int
) -> Iterator[av.VideoFrame] | None:
    """Decode from `start` on after a seek; None where seeking is not worth it or not exact."""
    times, stream = clip.stored_times, _stream(container, clip)
    if start < _SEEK_FRAMES or start >= len(times) or not clip.can_seek or not stream.time_base:
        return None
    goal = times[start]
    try:
        container.seek(int((goal - _SEEK_MARGIN) / stream.time_base), stream=stream)
    except av.error.FFmpegError:
        return None
    decoded = decode(container, stream, limits=clip.reading.limits)
    frame, time = next(decoded, (None, goal))
    if frame is None or time > times[max(start - 1, 0)]:
        return None
    while frame is not None and time < goal:
        frame, time = next(decoded, (None, goal))
    if frame is None or time != goal:
        return None
    return _chain(frame, decoded)


def _chain(
    first: av.VideoFrame, rest: Iterator[tuple[av.VideoFrame, Any]]
) -> Iterator[av.VideoFrame]:
    yield first
    yield from (frame for frame, _ in rest)
