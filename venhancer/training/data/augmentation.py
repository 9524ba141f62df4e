"""Space-time augmentation (paper section 3.3): the degraded key frames of a true clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from venhancer.config import Upsampling
from venhancer.training.config import TrainingConfig

Generator = np.random.Generator


@dataclass(frozen=True, slots=True)
class Take:
    """A true clip as read from the data; with a hint, both are latents."""

    name: str
    target: Tensor  # f 3 H W, uint8; latents f c h w
    caption: str = ""
    text: Tensor | None = None  # 2 l d: of the caption and of an empty one, if precomputed
    hint: Tensor | None = None  # f c h w
    scale: float = 1.0  # downscaling of the hint


@dataclass(frozen=True, slots=True)
class Batch:
    """True clips and their degraded versions; all clips have one stride, the rest varies."""

    target: Tensor  # b f 3 H W, in [-1, 1]; latents b c f h w where `is_latent`
    hint: Tensor  # like the target, but degraded; only key frames are used
    is_key: Tensor  # b f
    scale: Tensor  # (b)
    noise_level: Tensor  # (b), int64: the timestep that the hint's latents are diffused to
    captions: list[str]
    names: list[str]  # where each clip comes from
    is_latent: bool = False
    text: Tensor | None = None  # b l d, if precomputed
    neighbours: Tensor | None = None  # b n f h w, for a model that uses them
    keys: tuple[int, ...] = ()  # numbers of the key frames: `is_key` on the host
    skipped: tuple[str, ...] = ()  # files given up since the worker's previous batch, and why
    seconds: float = 0.0  # that a worker took to make this batch

    def __post_init__(self) -> None:
        keys = self.keys or tuple(self.is_key[0].nonzero().flatten().tolist())
        object.__setattr__(self, "keys", keys)

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to another device."""
        return self._with_tensors(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy the batch to pinned memory, for asynchronous transfers; called by a DataLoader."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            field.name: change(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **changed)


def sample_stride(config: TrainingConfig, rng: Generator) -> int:
    """Draw the number of output frames from one key frame to the next."""
    weights = np.array(config.stride_weights, dtype=np.float64)
    return int(rng.choice(config.strides, p=weights / weights.sum()))


def sample_scale(config: TrainingConfig, rng: Generator) -> float:
    """Draw s in [1, max_scale]; at the paper's power of 1, 8x is twice as frequent as 4x."""
    if rng.random() < config.usual_share:
        return config.usual_scale
    power = config.scale_power + 1
    return float(rng.uniform(1.0, config.max_scale**power) ** (1 / power))


def sample_downscaling(config: TrainingConfig, rng: Generator) -> Upsampling:
    """Draw the kernel: bilinear as in the paper, or bicubic, closer to most real inputs."""
    if config.bicubic_share and rng.random() < config.bicubic_share:
        return "bicubic"
    return "bilinear"


def sample_noise_level(config: TrainingConfig, rng: Generator) -> int:
    """Draw a timestep in [0, max_noise_level), which is the paper's 1..300 minus one."""
    if config.clean_share and rng.random() < config.clean_share:
        return 0
    return int(config.max_noise_level * rng.random() ** config.noise_level_power)


def drop_text(caption: str, config: TrainingConfig, rng: Generator) -> str:
    """Drop the caption at random, so that the model also learns to work without one."""
    return "" if rng.random() < config.text_drop else caption


def degrade(
    frames: Tensor, scale: float, upsampling: Upsampling, downscaling: Upsampling = "bilinear"
) -> Tensor:
    """Downscale by `scale` (bilinear in the paper) and enlarge again: f 3 H W -> f 3 H W."""
    h, w = frames.shape[-2:]
    small = (max(1, round(h / scale)), max(1, round(w / scale)))
    down = F.interpolate(frames, small, mode=downscaling, antialias=True, align_corners=False)
    return F.interpolate(down, (h, w), mode=upsampling, align_corners=False)


def key_layout(frames: int, stride: int) -> Tensor:
    """Make the key frame mask, 1 on every `stride`-th of `frames`: (f)."""
    return (torch.arange(frames) % stride == 0).float()


def make_batch(
    takes: Sequence[Take], config: TrainingConfig, upsampling: Upsampling, rng: Generator
) -> Batch:
    """Degrade true clips of config.longest frames; latents come with their hints.

    The last key frame ends the clip, so a stride that does not divide its length uses fewer frames.
    A stride longer than the clip uses two key frames.
    """
    stride = sample_stride(config, rng)
    frames = max(1, (config.frames - 1) // stride) * stride + 1
    pairs = [_pair(take, frames, config, upsampling, rng) for take in takes]
    targets, hints, scales = zip(*pairs, strict=True)
    noise_level = [sample_noise_level(config, rng) for _ in takes]
    captions = [drop_text(take.caption, config, rng) for take in takes]
    return Batch(
        target=torch.stack(targets),
        hint=torch.stack(hints),
        is_key=key_layout(frames, stride).repeat(len(takes), 1),
        scale=torch.tensor(scales, dtype=torch.float32),
        noise_level=torch.tensor(noise_level),
        captions=captions,
        names=[take.name for take in takes],
        is_latent=takes[0].hint is not None,
        text=_text_of(takes, captions),
    )


def _pair(
    take: Take, frames: int, config: TrainingConfig, upsampling: Upsampling, rng: Generator
) -> tuple[Tensor, Tensor, float]:
    """Make target and hint, f 3 H W or c f h w, and the downscaling of the hint."""
    true = take.target[:frames].float()
    if take.hint is not None:
        return true.transpose(0, 1), take.hint[:frames].float().transpose(0, 1), take.scale
    true = true / 127.5 - 1
    scale = sample_scale(config, rng)
    return true, degrade(true, scale, upsampling, sample_downscaling(config, rng)), scale


def _text_of(takes: Sequence[Take], captions: Sequence[str]) -> Tensor | None:
    """Stack the text embeddings, b l d, if all are precomputed; empty captions have their own."""
    texts = [
        take.text[0 if caption else 1].float()
        for take, caption in zip(takes, captions, strict=True)
        if take.text is not None
    ]
    return torch.stack(texts) if len(texts) == len(takes) else None
