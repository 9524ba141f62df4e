"""True clips as they come out of the data, and micro-batches made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from venhancer.config import Upsampling
from venhancer.training.augmentation import (
    Batch,
    Generator,
    drop_text,
    key_layout,
    make_batch,
    sample_noise_level,
    sample_stride,
)
from venhancer.training.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Take:
    """A clip and what is said of it; with a hint, both are latents."""

    name: str
    target: Tensor  # f 3 H W, uint8; latents f c h w
    caption: str = ""
    text: Tensor | None = None  # 2 l d: of the caption and of none, where computed beforehand
    hint: Tensor | None = None  # f c h w
    scale: float = 1.0  # by which the hint was degraded


def batch_of(
    takes: Sequence[Take], config: TrainingConfig, upsampling: Upsampling, rng: Generator
) -> Batch:
    """Degrade clips of config.longest frames; of latents, take the hints as they are."""
    if takes[0].hint is None:
        clips = [(take.target, take.caption) for take in takes]
        batch = make_batch(clips, config, upsampling, rng)
    else:
        batch = _latent_batch(takes, config, rng)
    names = [take.name for take in takes]
    return dataclasses.replace(batch, names=names, text=_text_of(takes, batch.captions))


def _latent_batch(takes: Sequence[Take], config: TrainingConfig, rng: Generator) -> Batch:
    """What `make_batch` makes of pixels: the same stride, frames and chances."""
    stride = sample_stride(config, rng)
    frames = max(1, (config.frames - 1) // stride) * stride + 1
    hints = [take.hint for take in takes if take.hint is not None]
    return Batch(
        target=torch.stack([take.target[:frames].float() for take in takes]).transpose(1, 2),
        hint=torch.stack([hint[:frames].float() for hint in hints]).transpose(1, 2),
        is_key=key_layout(frames, stride).expand(len(takes), frames),
        scale=torch.tensor([take.scale for take in takes], dtype=torch.float32),
        noise_level=torch.tensor([sample_noise_level(config, rng) for _ in takes]),
        captions=[drop_text(take.caption, config, rng) for take in takes],
        names=[],
        is_latent=True,
    )


def _text_of(takes: Sequence[Take], captions: Sequence[str]) -> Tensor | None:
    """b l d, where all of it was computed beforehand; an empty caption has its own."""
    texts = [
        take.text[0 if caption else 1].float()
        for take, caption in zip(takes, captions, strict=True)
        if take.text is not None
    ]
    return torch.stack(texts) if len(texts) == len(takes) else None
