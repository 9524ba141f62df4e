"""Read a video's properties and its frames, as a stream, with time stamps as stored.

A video is a file that FFmpeg can decode, a still image, or a folder of numbered PNG files.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from venhancer.errors import VideoError
from venhancer.options import FOLDER_FPS
from venhancer.video.clip import Clip, Reading, Track
from venhancer.video.colour import (
    RGBReader,
    display_matrix,
    found_colour,
    is_transposed,
)
from venhancer.video.decode import Health, codec_name, decode, open_input, video_stream
from venhancer.video.scene_cuts import CutFinder

READING = Reading()
_ROUNDING = Fraction(3, 2000)  # frame distances within 1.5 ms count as equal: Matroska counts in ms
_SEEK_FRAMES = 100  # closer than this, decoding and dropping frames is as fast as seeking
_SEEK_MARGIN = 1  # seconds before the frame asked for
_SIZED_FORMATS = ("mov", "matroska", "avi")  # their headers tell how long the file should be


def probe(path: Path, reading: Reading = READING) -> Clip:
    """Decode the video once, a frame at a time, and return its properties.

    A truncated file gives the frames that can be read, and a line in `Clip.damage`.
    Raises VideoError for a missing file, no video, no frame, PNG files of mixed sizes.
    """
    if path.is_dir():
        return _probe_folder(path, reading)
    if not path.is_file():
        raise VideoError(f"{path} does not exist or is no file")
    with open_input(path) as container:
        return _probe_container(path, container, reading)


def read_frames(clip: Clip, start: int = 0, stop: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Read frames [start:stop] that `probe` counted, each uint8 H W 3 RGB, upright, contiguous.

    Raises VideoError when the file gives fewer frames than it did at the probe.
    """
    wanted = range(clip.frames)[start:stop]
    read = _read_folder if clip.is_folder else _read_container
    given = 0
    for frame in islice(read(clip, wanted.start), len(wanted)):
        given += 1
        yield frame
    if given < len(wanted):
        raise VideoError(f"{clip.path} gave {given} frames where it had {len(wanted)}: it changed")


# --- files -------------------------------------------------------------------------------------


def _probe_container(path: Path, container: InputContainer, reading: Reading) -> Clip:
    stream = video_stream(container, path)
    health = Health()
    finder = CutFinder()
    times: list[Fraction] = []
    first: av.VideoFrame | None = None
    last_duration = Fraction(0)
    for frame, time in decode(container, stream, health):
        first = first or frame
        times.append(time)
        finder.add(frame)
        last_duration = (frame.duration or 0) * (frame.time_base or Fraction(0))
    if first is None:
        raise VideoError(f"{path} holds no frame that can be decoded")
    is_still = container.format.name.endswith("_pipe")
    fps = reading.folder_fps if is_still else _sensible_fps(stream, times)
    step = 1 / fps
    end = times[-1] + (last_duration if last_duration > 0 and not is_still else step)
    swap = is_transposed(display_matrix(first))
    size = (first.width, first.height)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return Clip(
        path=path,
        width=size[swap],
        height=size[not swap],
        times=tuple(times),
        fps=fps,
        is_variable=_is_variable(times),
        end=end,
        codec=codec_name(stream),
        pixel_format=first.format.name,
        colour=found_colour(first),
        reading=reading,
        stream=stream.index,
        tracks=tuple(map(_track, container.streams)),
        damage=_damage(path, container, stream, health, len(times), max(end, health.end), step),
        lines=first.height,
        sample_aspect=(1 / aspect if swap else aspect) if aspect > 0 else Fraction(1),
        cuts=finder.cuts(),
    )


def _track(stream: Stream) -> Track:
    return Track(
        index=stream.index,
        kind=stream.type,
        codec=codec_name(stream),
        words=", ".join(filter(None, (stream.language, stream.metadata.get("title")))),
        start=None if stream.start_time is None else _seconds(stream, stream.start_time),
    )


def _seconds(stream: Stream, ticks: int) -> Fraction:
    return Fraction(ticks) * (stream.time_base or 1)


def _sensible_fps(stream: VideoStream, times: list[Fraction]) -> Fraction:
    """Choose the nominal rate if it fits the times within 1 %, else the measured one."""
    nominal = stream.guessed_rate or stream.average_rate
    if len(times) < 2:
        return nominal or FOLDER_FPS
    measured = (len(times) - 1) / (times[-1] - times[0])
    for rate in (nominal, stream.average_rate):
        if rate and abs(rate / measured - 1) < Fraction(1, 100):
            return rate
    return measured.limit_denominator(100_000)


def _is_variable(times: list[Fraction]) -> bool:
    distances = [later - earlier for earlier, later in pairwise(times)]
    return bool(distances) and max(distances) - min(distances) > _ROUNDING


def _damage(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    health: Health,
    frames: int,
    end: Fraction,
    step: Fraction,
) -> str | None:
    """Describe damage in a line: broken packets, or an end before the one in the header."""
    promised = _promised_end(container, stream)
    if promised and end < promised - 2 * step - Fraction(1, 10):
        missing = f"it ends at {float(end):.2f} s of {float(promised):.2f} s"
    elif health.errors:
        missing = f"broken packets: {health.errors}"
    else:
        return None
    return f"{path.name} is damaged: {missing}, {frames} frames could be read"


def _promised_end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    if not container.format.name.startswith(_SIZED_FORMATS):
        return None
    if stream.duration is not None and stream.time_base:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base
    return Fraction(container.duration, av.time_base) if container.duration else None


def _read_container(clip: Clip, start: int) -> Iterator[NDArray[np.uint8]]:
    reader = RGBReader(clip.width, clip.height, clip.working_colour)
    with open_input(clip.path) as container:
        stream = video_stream(container, clip.path)
        frames = _decode_from(container, stream, clip, start)
        if frames is not None:
            yield from map(reader.read, frames)
            return
    with open_input(clip.path) as container:
        decoded = decode(container, video_stream(container, clip.path), Health())
        yield from (reader.read(frame) for frame, _ in islice(decoded, start, None))


def _decode_from(
    container: InputContainer, stream: VideoStream, clip: Clip, start: int
) -> Iterator[av.VideoFrame] | None:
    """Decode from `start` on after a seek; None where seeking is not worth it or not exact."""
    if start < _SEEK_FRAMES or start >= clip.frames or clip.damage or not stream.time_base:
        return None
    goal = clip.times[start]
    try:
        container.seek(int((goal - _SEEK_MARGIN) / stream.time_base), stream=stream)
    except av.error.FFmpegError:
        return None
    decoded = decode(container, stream, Health())
    frame, time = next(decoded, (None, goal))
    if frame is None or time > clip.times[max(start - 1, 0)]:
        return None
    while frame is not None and time < goal:
        frame, time = next(decoded, (None, goal))
    if frame is None or time != goal:
        return None
    return _chain(frame, decoded)


def _chain(
    first: av.VideoFrame, rest: Iterator[tuple[av.VideoFrame, Fraction]]
) -> Iterator[av.VideoFrame]:
    yield first
    yield from (frame for frame, _ in rest)


# --- folders -----------------------------------------------------------------------------------


def numbered_pngs(folder: Path) -> list[Path]:
    """List PNG files whose names end in a number, in natural order, without hidden files."""
    files = [
        file
        for file in folder.iterdir()
        if re.fullmatch(r"[^.].*?\.png|\d\.png", file.name, re.IGNORECASE)
        and file.stem[-1].isdecimal()
    ]
    return sorted(files, key=_natural)


def _natural(file: Path) -> tuple[list[tuple[str, int]], str]:
    parts = re.findall(r"(\D*)(\d*)", file.stem)
    return [(text, int(number or 0)) for text, number in parts], file.name


def _read_still(file: Path) -> tuple[av.VideoFrame, NDArray[np.uint8]]:
    with open_input(file) as container:
        stream = video_stream(container, file)
        frame, _ = next(decode(container, stream, Health()), (None, None))
    if frame is None:
        raise VideoError(f"{file} is not an image that can be read")
    swap = is_transposed(display_matrix(frame))
    size = (frame.width, frame.height)
    colour = found_colour(frame).resolved(frame.height)
    return frame, RGBReader(size[swap], size[not swap], colour).read(frame)


def _probe_folder(folder: Path, reading: Reading) -> Clip:
    fps = reading.folder_fps
    files = numbered_pngs(folder)
    if not files:
        raise VideoError(f"{folder} holds no numbered PNG file such as 000001.png")
    frame, image = _read_still(files[0])
    finder = CutFinder()
    finder.add(frame)
    for file in files[1:]:
        later, other = _read_still(file)
        finder.add(later)
        if other.shape != image.shape:
            sizes = [f"{i.shape[1]}x{i.shape[0]}" for i in (other, image)]
            raise VideoError(f"{file} is {sizes[0]}, but {files[0].name} is {sizes[1]}")
    return Clip(
        path=folder,
        width=image.shape[1],
        height=image.shape[0],
        times=tuple(n / fps for n in range(len(files))),
        fps=fps,
        is_variable=False,
        end=len(files) / fps,
        codec="png",
        pixel_format=frame.format.name,
        colour=found_colour(frame),
        reading=reading,
        is_folder=True,
        lines=image.shape[0],
        cuts=finder.cuts(),
    )


def _read_folder(clip: Clip, start: int) -> Iterator[NDArray[np.uint8]]:
    for file in numbered_pngs(clip.path)[start:]:
        image = _read_still(file)[1]
        if image.shape != (clip.height, clip.width, 3):
            raise VideoError(f"{file} changed its size since it was probed")
        yield image
