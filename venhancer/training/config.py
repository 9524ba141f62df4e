"""What a training run is made of: one frozen dataclass, saved in every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Defaults are the paper's (section 4.1) where it names a value."""

    batch: int = 256
    frames: int = 33  # true frames a clip, about: it begins and ends on key frames
    crop: tuple[int, int] = (1280, 720)  # width, height
    learning_rate: float = 1e-5
    warmup_steps: int = 100
    steps: int = 10_000
    weight_decay: float = 0.01
    ema_decay: float = 0.9999
    clip_gradient: float = 1.0
    strides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    stride_weights: tuple[float, ...] = (1, 1, 1, 1, 1, 1, 1, 1)
    max_scale: float = 8.0
    scale_power: float = 1.0  # density of s is proportional to s to this power
    usual_scale: float = 4.0
    usual_share: float = 0.0  # of clips that are degraded by just that
    bicubic_share: float = 0.0  # of clips that are downscaled bicubically, not bilinearly
    max_noise_level: int = 300
    noise_level_power: float = 1.0  # above 1: more clips with little noise
    timestep_power: float = 1.0  # below 1: noisy timesteps more often
    text_drop: float = 0.1
    sigma_floor: float = 0.3  # `sample` models: the v-loss weight is 1 / max(sigma, this)^2
    trains_prior: bool = False  # else the UNet is frozen and only the controller learns
    seed: int = 0

    @property
    def longest(self) -> int:
        """True frames that the longest clip needs."""
        return max(self.frames, max(self.strides) + 1)


NANO_TRAINING = TrainingConfig(
    batch=4,
    frames=5,
    crop=(96, 96),
    learning_rate=1e-3,
    steps=4_200,
    ema_decay=0.997,
    stride_weights=(1, 8, 1, 2, 1, 1, 1, 1),  # what people ask for most, most often
    scale_power=0.0,  # even, since large factors leave little to learn from
    bicubic_share=0.75,
    usual_share=0.7,  # a small network learns one factor well before many
    noise_level_power=4.0,  # half the clips below level 19
    timestep_power=0.5,  # where little but the hint is known, most is decided
    sigma_floor=1.0,
    trains_prior=True,  # there is no pretrained prior of this size: both learn together
)
