"""Small networks, batches and a folder of media, for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from tests.support.clips import moving_frames, write_clip
from venhancer.config import ModelConfig, Preset, UNetConfig
from venhancer.model.denoiser import make_denoiser
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Batch, Take, make_batch
from venhancer.training.encoders import Encoders, lapped_encoders
from venhancer.training.objective import DiffusionLoss
from venhancer.training.trainer import Trainer, initialise

SMALL = TrainingConfig(
    frames=5,
    crop=(32, 32),
    clips_a_decode=4,
    strides=(1, 2),
    stride_weights=(1, 1),
    batch=2,
    micro_batch=2,
    learning_rate=1e-3,
    warmup_steps=1,
    steps=4,
    trains_prior=True,
    precision="float32",
    checkpoint_activations=False,
)
TEXT_WIDTH = 16


def small_v_preset() -> Preset:
    """Make a preset of the released kind, with text and a frozen prior, that runs in no time."""
    unet = UNetConfig(
        base_channels=32,
        multipliers=(1, 2),
        blocks_per_level=1,
        spatial_levels=(1,),
        temporal_levels=(1,),
        head_channels=16,
        first_temporal_heads=1,
        text_width=TEXT_WIDTH,
    )
    return Preset(name="small", model=ModelConfig(unet=unet))


def new_trainer(
    preset: Preset, config: TrainingConfig = SMALL, accelerator: Accelerator | None = None
) -> Trainer:
    """Make a trainer of random weights, none of which is zero if that would hide an effect."""
    torch.manual_seed(0)
    model = make_denoiser(preset.model)
    for parameter in model.unet.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    initialise(model, config)
    return Trainer(model, preset, config, accelerator or Accelerator(cpu=True))


def pooled_encode(clips: Tensor, _: torch.Generator) -> Tensor:
    """Encode like a codec with four channels at an eighth of the size: b f 3 H W -> b 4 f h w."""
    small = F.avg_pool2d(clips.flatten(0, 1), 8).unflatten(0, clips.shape[:2])
    return torch.cat([small, small.mean(dim=2, keepdim=True)], dim=2).transpose(1, 2)


def text_of(captions: list[str]) -> Tensor:
    """Encode text, in inference mode as the real encoder does: (b, 3, d)."""
    with torch.inference_mode():
        lengths = torch.tensor([len(caption) for caption in captions], dtype=torch.float32)
        return lengths[:, None, None].sin().expand(-1, 3, TEXT_WIDTH).clone()


def encode_text(captions: list[str]) -> Tensor:
    return torch.cat([text_of([caption]) for caption in captions])  # out of inference mode


def encoders_of(preset: Preset) -> Encoders:
    """Return the preset's own codec, or a stand-in for the released model's."""
    if not preset.model.has_learned_codec:
        return lapped_encoders(preset.model.latent_scale)
    return Encoders(pooled_encode)


def diffusion_loss(trainer: Trainer) -> DiffusionLoss:
    """Make the objective of a trainer's run."""
    preset, config = trainer.preset, trainer.config
    return DiffusionLoss(preset.model, config, encoders_of(preset), trainer.model.sigmas)


def random_clip(frames: int = SMALL.frames, seed: int = 0) -> Tensor:
    noise = torch.rand(frames, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(noise, (32, 32), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def some_batches(count: int, config: TrainingConfig = SMALL) -> list[Batch]:
    """Make the same batches each time; clip i is called `clip i`."""
    rng = np.random.default_rng(0)
    takes = [Take(f"clip {i}", random_clip(seed=i), f"clip {i}") for i in range(config.batch)]
    return [make_batch(takes, config, "bilinear", rng) for _ in range(count)]


def write_media(folder: Path) -> Path:
    """Write a folder with two videos, one of them with a caption, and a photo."""
    folder.mkdir()
    write_clip(folder / "a.mp4", 24, 64, 48)
    write_clip(folder / "b.mkv", 24, 48, 64)
    (folder / "a.txt").write_text("waves that move to the right\n")
    Image.fromarray(moving_frames(1, 160, 144)[0]).save(folder / "photo.png")
    return folder
