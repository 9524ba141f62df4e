"""Small media for tests, generated when needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from tests.support.models import SMALL_UNET
from venhancer.config import Preset, RunDefaults, UNetConfig
from venhancer.model.denoiser import make_denoiser
from venhancer.video.clip import Clip
from venhancer.video.colour import Colour
from venhancer.weights.checkpoint import save_checkpoint

TINY_UNET = UNetConfig(
    latent_channels=48,
    base_channels=16,
    multipliers=(1, 2),
    blocks_per_level=1,
    spatial_levels=(),
    temporal_levels=(1,),
    head_channels=16,
    first_temporal_heads=0,
    text_width=0,
    norm_groups=8,
    temporal_convs=1,
    extra_rows=0,
)


def small_preset() -> Preset:
    """Make a preset of `SMALL_UNET` that runs in no time, under the built-in model's name."""
    model = dataclasses.replace(SMALL_UNET.model, unet=TINY_UNET)
    return Preset(
        name="nano", model=model, defaults=RunDefaults(steps=2, solver="normal", scale=2.0)
    )


def small_checkpoint(path: Path) -> Path:
    """Write a checkpoint of `small_preset` with random weights, none of them zero."""
    torch.manual_seed(0)
    preset = small_preset()
    model = make_denoiser(preset.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    save_checkpoint(path, model, preset)
    return path


def described_clip(frames: int = 9, width: int = 48, height: int = 32) -> Clip:
    """Describe a clip as probing would, without a file."""
    return Clip(
        path=Path("in.mp4"),
        width=width,
        height=height,
        times=tuple(Fraction(k, 24) for k in range(frames)),
        fps=Fraction(24),
        is_variable=False,
        end=Fraction(frames, 24),
        codec="h264",
        pixel_format="yuv420p",
        colour=Colour(),
    )


def moving_frames(count: int, width: int, height: int) -> list[NDArray[np.uint8]]:
    """Make a soft colour pattern that moves to the right, two pixels a frame."""
    y, x = np.mgrid[0:height, 0:width]
    frames = []
    for k in range(count):
        waves = (np.sin((x - 2 * k) / 6), np.cos(y / 5), np.sin((x + y - k) / 9))
        frames.append(np.stack([127 + 90 * w for w in waves], axis=-1).astype(np.uint8))
    return frames


def write_clip(path: Path, count: int, width: int = 48, height: int = 32, fps: str = "24") -> Path:
    """Write an H.264 clip of `moving_frames`."""
    return write_frames(path, moving_frames(count, width, height), fps)


def write_frames(path: Path, frames: Sequence[NDArray[np.uint8]], fps: str = "24") -> Path:
    """Write an H.264 clip of RGB frames."""
    height, width, _ = frames[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "8"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_all(path: Path) -> list[NDArray[np.uint8]]:
    """Read every frame of a video, RGB."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
