"""What tests of training data share: settings, true clips and a folder of media."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tests.clips import moving_frames, write_clip
from venhancer.training.config import TrainingConfig

SMALL = TrainingConfig(
    batch=2,
    frames=5,
    crop=(32, 32),
    learning_rate=1e-3,
    warmup_steps=1,
    steps=4,
    strides=(1, 2),
    stride_weights=(1, 1),
    trains_prior=True,
)


def random_clip(frames: int = SMALL.frames, seed: int = 0) -> Tensor:
    noise = torch.rand(frames, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(noise, (32, 32), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def write_media(folder: Path) -> Path:
    """A folder with two videos, one of them with a caption, and a photo."""
    folder.mkdir()
    write_clip(folder / "a.mp4", 24, 64, 48)
    write_clip(folder / "b.mkv", 24, 48, 64)
    (folder / "a.txt").write_text("waves that move to the right\n")
    Image.fromarray(moving_frames(1, 160, 144)[0]).save(folder / "photo.png")
    return folder
