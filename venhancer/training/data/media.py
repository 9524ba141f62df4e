"""Frames of videos and photos, and the clips that training takes from them.

Decoding is the bottleneck. So many small crops are taken from one decoded run of frames, at random
places; a crop about as large as the video is taken once, from its middle, after downscaling (paper,
section 4.1). Photos become pans and zooms.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from venhancer.errors import VideoError
from venhancer.options import FOLDER_FPS
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Generator
from venhancer.video.colour import found_colour
from venhancer.video.orientation import display_matrix, is_transposed
from venhancer.video.rgb import RGBReader
from venhancer.video.streams import video_stream

CUT = 24.0  # mean absolute change (of 255) between neighbours that counts as a cut
RUN_CLIPS = 4  # length in clips of a run that gives several crops

Seconds = tuple[float, float]  # seconds of a video: from, to
WHOLE: Seconds = (0.0, math.inf)
BROKEN_VIDEO = (av.FFmpegError, OSError, ValueError, VideoError)
BROKEN_PHOTO = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class UnusableError(Exception):
    """A file gives no clip; the text says why. Training continues with others."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A file, or the bytes of one member inside a shard."""

    path: Path
    offset: int = 0
    size: int | None = None  # None: the whole file

    def read(self, start: int = 0, count: int | None = None) -> bytes:
        """Read `count` bytes from `start` on, or all that follow."""
        left = -1 if self.size is None else self.size - start
        with self.path.open("rb") as file:
            file.seek(self.offset + start)
            return file.read(left if count is None else count)

    def source(self) -> str | io.BytesIO:
        """Make the path or buffer that PyAV and Pillow open."""
        return str(self.path) if self.size is None else io.BytesIO(self.read())


def frame_step(stream: VideoStream, fps: float) -> int:
    """Compute the step between kept frames, such that about `fps` are left (paper, 4.1)."""
    return max(1, round(float(_rate(stream)) / fps))


def _rate(stream: VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or FOLDER_FPS)


def read_run(media: Extent, span: Seconds, config: TrainingConfig, rng: Generator) -> Tensor:
    """Read frames in a row, at about config.fps, from a random place of a video: f 3 H W, uint8.

    There are at least config.longest, at least config.crop in size; no more are needed if the run
    gives one clip. UnusableError: the video is broken, too short or too small.
    """
    try:
        with av.open(media.source(), "r") as container:
            stream = video_stream(container, media.path)
            step = frame_step(stream, config.fps)
            start, stop = _place(container, stream, span, (config.longest - 1) * step + 1, rng)
            wanted = config.longest * (RUN_CLIPS if config.clips_a_decode > 1 else 1)
            frames = islice(frames_between(container, stream, start, stop), 0, wanted * step, step)
            run = list(_sized(frames, config, rng if config.clips_a_decode > 1 else None))
    except BROKEN_VIDEO as error:
        reason = getattr(error, "strerror", None) or error
        raise UnusableError(f"cannot be read: {reason}") from error
    if len(run) < config.longest:
        raise UnusableError(f"too short: {len(run)} frames where a clip takes {config.longest}")
    return torch.stack(run)


def _place(
    container: InputContainer, stream: VideoStream, span: Seconds, frames: int, rng: Generator
) -> Seconds:
    """Choose where to start and stop reading, in seconds of the stream, with time for `frames`."""
    duration = container.duration / av.time_base if container.duration else 0.0
    begin, end = span[0], min(span[1], duration or math.inf)
    room = end - begin - frames / _rate(stream)
    start = begin + rng.random() * (room if 0 < room < math.inf else 0.0)
    zero = float((stream.start_time or 0) * (stream.time_base or 0))
    return zero + start, zero + span[1]


def frames_between(
    container: InputContainer, stream: VideoStream, start: float, stop: float
) -> Iterator[av.VideoFrame]:
    """Read frames at [start, stop) seconds of the stream, including frames without a time."""
    stream.thread_type = "AUTO"
    half = 0.5 / _rate(stream)
    if start > half and stream.time_base:
        container.seek(int(start / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.time is not None and frame.time >= stop - half:
            return
        if frame.time is None or frame.time >= start - half:
            yield frame


def read_centre(source: str | io.BytesIO, config: TrainingConfig) -> Tensor:
    """Read every frame of a clip, downscaled and cropped to config.crop: f 3 H W, uint8."""
    with av.open(source, "r") as container:
        stream = video_stream(container, Path("clip"))
        return _centre(torch.stack(list(_sized(container.decode(stream), config, None))), config)


def _sized(
    frames: Iterator[av.VideoFrame], config: TrainingConfig, rng: Generator | None
) -> Iterator[Tensor]:
    """Convert to upright RGB (3 H W, uint8), in the size that crops are taken from.

    rng: sometimes downscaled, for sharpness; None: as small as the crop allows.
    """
    first = next(frames, None)
    if first is None:
        return
    width, height = upright_size(first)
    most = min(width / config.crop[0], height / config.crop[1])
    if most < 1:
        raise UnusableError(f"too small: {width}x{height} where a crop takes {_shown(config.crop)}")
    factor = most if rng is None else float(rng.choice([1.0, rng.uniform(1.0, min(most, 2.0))]))
    size = max(round(width / factor), config.crop[0]), max(round(height / factor), config.crop[1])
    reader = RGBReader(*size, found_colour(first).resolved(first.height))
    for frame in chain([first], frames):
        yield torch.from_numpy(reader.read(frame)).permute(2, 0, 1)


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Compute width and height after rotation, in pixels."""
    swap = is_transposed(display_matrix(frame))
    return (frame.height, frame.width) if swap else (frame.width, frame.height)


def _shown(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)


def video_clips(
    media: Extent, span: Seconds, config: TrainingConfig, rng: Generator
) -> Iterator[Tensor]:
    """Take up to config.clips_a_decode clips (f 3 H W, uint8) from one run, none with a cut."""
    run = read_run(media, span, config, rng)
    for _ in range(config.clips_a_decode):
        clip = _centre(run, config) if config.clips_a_decode == 1 else _crop(run, config, rng)
        if not has_cut(clip):
            yield _flip(clip, rng)


def _centre(run: Tensor, config: TrainingConfig) -> Tensor:
    width, height = config.crop
    top, left = (run.shape[-2] - height) // 2, (run.shape[-1] - width) // 2
    return run[..., top : top + height, left : left + width]


def _crop(run: Tensor, config: TrainingConfig, rng: Generator) -> Tensor:
    """Crop config.longest frames at a random place."""
    width, height = config.crop
    start = int(rng.integers(len(run) - config.longest + 1))
    top = int(rng.integers(run.shape[-2] - height + 1))
    left = int(rng.integers(run.shape[-1] - width + 1))
    return run[start : start + config.longest, :, top : top + height, left : left + width]


def has_cut(clip: Tensor) -> bool:
    """Tell whether neighbours, at a sixteenth of the size, differ by more than motion explains."""
    small = torch.stack([shrink(frame) for frame in clip])
    return bool((small[1:] - small[:-1]).abs().mean(dim=(1, 2, 3)).max() > CUT)


def shrink(frame: Tensor) -> Tensor:
    """Shrink 3 H W, uint8, to a sixteenth of the size, 0 to 255."""
    return F.avg_pool2d(frame.float(), min(16, *frame.shape[1:]))


def _flip(clip: Tensor, rng: Generator) -> Tensor:
    """Mirror left-right and reverse in time, each half of the time."""
    flips = [axis for axis in (0, 3) if rng.random() < 0.5]
    return clip.flip(flips).contiguous()


def photo_clips(media: Extent, config: TrainingConfig, rng: Generator) -> Iterator[Tensor]:
    """Make pans and zooms over a photo, which is halved first: few are sharp at full size."""
    width, height = config.crop
    photo = _read_halved(media)
    if photo.shape[1] < 2 * height or photo.shape[2] < 2 * width:
        size, least = (2 * photo.shape[2], 2 * photo.shape[1]), (4 * width, 4 * height)
        raise UnusableError(f"too small: {_shown(size)} where a photo takes {_shown(least)}")
    for _ in range(config.clips_a_decode):
        yield _flip(pan_and_zoom(photo, config, rng), rng)


def _read_halved(media: Extent) -> Tensor:
    try:
        with Image.open(media.source()) as image:
            half = (max(1, image.width // 2), max(1, image.height // 2))
            image.draft("RGB", half)
            pixels = np.asarray(image.convert("RGB").resize(half, Image.Resampling.BOX))
    except BROKEN_PHOTO as error:
        raise UnusableError(f"cannot be read: {error}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def pan_and_zoom(photo: Tensor, config: TrainingConfig, rng: Generator) -> Tensor:
    """Move a virtual camera over a photo (3 H W, uint8) -> f 3 h w, uint8."""
    width, height = config.crop
    span = 1.6  # size, in crops, of the part of the photo that the camera stays in
    tall, wide = int(span * height), int(span * width)
    top = int(rng.integers(photo.shape[1] - tall + 1))
    left = int(rng.integers(photo.shape[2] - wide + 1))
    area = photo[None, :, top : top + tall, left : left + wide].float()
    time = torch.linspace(-1, 1, config.longest)
    speed = torch.tensor(rng.uniform(-1, 1, 2) * rng.random() * (1 - 1 / span))
    zoom = 1 / span * (1 + 0.15 * float(rng.uniform(-1, 1)) * time)
    theta = torch.zeros(config.longest, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = time[:, None] * speed.float() * 0.8
    grid = F.affine_grid(theta, [config.longest, 3, height, width], align_corners=False)
    out = F.grid_sample(
        area.expand(config.longest, -1, -1, -1),
        grid,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return out.round().clamp(0, 255).to(torch.uint8)
