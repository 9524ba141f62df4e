"""A small film, a photo and a pool made of them, for tests of pools."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.clips import write_frames
from tests.venhancer.motion.test_optical_flow import picture
from venhancer.config import NANO
from venhancer.training.config import TrainingConfig
from venhancer.training.data.sources import find_media
from venhancer.training.prepare.pool_maker import PoolSettings, make_pool

SETTINGS = PoolSettings(samples=12, crop=32, crops=4, part=6, flawed_share=0.5, seed=3)
FLAT = dataclasses.replace(NANO.model.unet, base_channels=16, blocks_per_level=1, repair_blocks=1)
PRESET = dataclasses.replace(NANO, model=dataclasses.replace(NANO.model, unet=FLAT))
CONFIG = TrainingConfig(
    frames=1,
    crop=(32, 32),
    strides=(1,),
    stride_weights=(1,),
    start_share=0.8,
    grid_weight=1.0,
    batch=4,
    micro_batch=2,
    learning_rate=3e-3,
    warmup_steps=1,
    steps=4,
    trains_prior=True,
    precision="float32",
    checkpoint_activations=False,
)


def silent(_: str) -> None:
    pass


def scenery(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Make coarse blotches that survive at a quarter of the size, and detail that does not."""
    coarse = cv2.resize(picture(height // 4, width // 4, seed), (width, height), interpolation=2)
    mixed = 0.8 * coarse + 0.2 * picture(height, width, seed + 1).astype(float)
    return mixed.astype(np.uint8)


def write_pool_media(folder: Path) -> Path:
    """Write a film in which the camera pans, and a photo."""
    wide = scenery(480, 264, 1)
    frames = [np.ascontiguousarray(wide[:, 2 * n : 2 * n + 384]) for n in range(36)]
    write_frames(folder / "pan.mp4", frames)
    Image.fromarray(scenery(680, 512, 5)).save(folder / "photo.png")
    return folder


def write_pool(media: Path, folder: Path) -> Path:
    """Write a pool of two parts."""
    make_pool(find_media(media), folder, NANO.model, SETTINGS, silent)
    return folder
