"""Held-out clips for validation: the beginning of each video in a folder, always the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from venhancer.errors import OptionError, VideoError
from venhancer.training.config import TrainingConfig
from venhancer.training.data.media import frame_step
from venhancer.training.data.sources import Sample, find_media
from venhancer.video.inputs import open_input
from venhancer.video.streams import video_stream


class HeldOut(NamedTuple):
    """A true clip with its name and caption."""

    name: str
    frames: Tensor  # f 3 H W, uint8
    caption: str


def read_held_out(
    folder: Path, config: TrainingConfig, count: int = 4, frames: int | None = None
) -> list[HeldOut]:
    """Read the centre of the first frames of the first `count` videos that are large enough.

    frames: most frames of a clip; default: as many as training uses
    OptionError where no video gives a clip.
    """
    videos = (sample for sample in find_media(folder) if sample.kind == "video")
    clips = (_read(video, config, frames or config.longest) for video in videos)
    found = list(itertools.islice((clip for clip in clips if clip is not None), count))
    if not found:
        width, height = config.crop
        raise OptionError(
            f"--validate {folder}: no video of {width}x{height} and {config.longest} frames "
            "among its files: name another folder"
        )
    return found


def _read(video: Sample, config: TrainingConfig, frames: int) -> HeldOut | None:
    path = video.media.path
    try:
        run = _first_frames(path, config.fps, frames)
    except VideoError:
        return None
    width, height = config.crop
    if len(run) < config.longest or run.shape[-2] < height or run.shape[-1] < width:
        return None
    top, left = (run.shape[-2] - height) // 2, (run.shape[-1] - width) // 2
    crop = run[..., top : top + height, left : left + width].contiguous()
    return HeldOut(path.stem, crop, video.read_caption())


def _first_frames(path: Path, fps: float, count: int) -> Tensor:
    """Read frames at about `fps`, by skipping some: f 3 H W, uint8."""
    with open_input(path) as container:
        stream = video_stream(container, path)
        skip = frame_step(stream, fps)
        taken = itertools.islice(container.decode(stream), 0, count * skip, skip)
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in taken]
    return torch.stack(frames).permute(0, 3, 1, 2) if frames else torch.empty(0, 3, 0, 0)
