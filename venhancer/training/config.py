"""Settings of a training run: one frozen dataclass, saved in every checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from venhancer.errors import ConfigError

Sharding = Literal["none", "optimizer", "parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Settings; defaults are the paper's (see the sections), or our choice where it is silent."""

    # data (4.1: 720p centre crops at 24 fps by frame skipping; text dropped in a tenth)
    frames: int = 33  # about so many true frames per clip: it begins and ends on key frames
    crop: tuple[int, int] = (1280, 720)  # width, height
    fps: float = 24.0  # frames of faster clips are dropped to reach about this
    clips_a_decode: int = 1  # crops of one decoded run of frames, spread over many batches
    photo_share: float = 0.25  # of clips, where there are photos: pans and zooms
    text_drop: float = 0.1

    # space-time augmentation (3.3)
    strides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    stride_weights: tuple[float, ...] = (1, 1, 1, 1, 1, 1, 1, 1)
    max_scale: float = 8.0
    scale_power: float = 1.0  # density of s is proportional to s to this power: 4x to 8x as 1:2
    usual_scale: float = 4.0
    usual_share: float = 0.0  # of clips that are degraded by exactly `usual_scale`
    bicubic_share: float = 0.0  # of clips downscaled bicubically, not bilinearly
    max_noise_level: int = 300
    noise_level_power: float = 1.0  # above 1: more clips with little noise
    clean_share: float = 0.0  # of clips whose key frames have no noise

    # objective (4.1: v-prediction, mean squared error)
    timestep_power: float = 1.0  # below 1: noisy timesteps more often
    start_share: float = 0.0  # of clips that are diffused to the timestep where sampling starts
    grid_weight: float = 0.0  # of errors that show a lapped codec's blocks as a grid
    perceptual_weight: float = 0.0  # of LPIPS between one decoded frame per clip and the truth
    perceptual_share: float = 1.0  # of clips that LPIPS is computed on
    perceptual_crop: int = 0  # pixels a side of the part that LPIPS sees; 0: the whole frame

    # distillation, only with a teacher: evaluations in a run of each (solver `normal`)
    student_evaluations: int = 4
    teacher_evaluations: int = 14  # this plus 1 is a multiple of the student's plus 1

    # optimiser (4.1: AdamW, 1e-5, 256 clips an update; prior frozen)
    batch: int = 256  # clips an update, on all devices together
    micro_batch: int = 1  # clips that a device processes at once; gradients are accumulated
    learning_rate: float = 1e-5
    final_learning_rate: float = 1.0  # share of the rate at the end of a cosine; 1: constant
    warmup_steps: int = 100
    steps: int = 10_000
    weight_decay: float = 0.01
    clip_gradient: float = 1.0
    ema_decay: float = 0.9999
    trains_prior: bool = False  # else the UNet is frozen and only the controller learns
    trains_repair: bool = False  # flat body: train only its repair, on flawed samples only
    seed: int = 0

    # computation: none of these changes what is learned
    precision: Literal["bf16", "float32"] = "bf16"
    sharding: Sharding = "none"  # over devices: nothing; optimiser and gradients; or weights too
    checkpoint_activations: bool = True  # recompute them instead of keeping them

    # intervals of what is written, in updates
    save_every: int = 250
    validate_every: int = 1_000

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.stride_weights):
            raise ConfigError(
                f"{len(self.strides)} strides with {len(self.stride_weights)} stride_weights: "
                "give each stride one"
            )
        if self.batch % self.micro_batch:
            raise ConfigError(
                f"batch={self.batch} is not a multiple of micro_batch={self.micro_batch}"
            )
        if (self.teacher_evaluations + 1) % (self.student_evaluations + 1):
            steps = self.student_evaluations + 1
            raise ConfigError(
                f"teacher_evaluations={self.teacher_evaluations} does not divide the student's "
                f"{self.student_evaluations} steps evenly: take {3 * steps - 1} or "
                f"{4 * steps - 1}, one less than a multiple of {steps}"
            )

    @property
    def longest(self) -> int:
        """Number of true frames that the longest clip needs."""
        return max(self.frames, max(self.strides) + 1)

    def accumulation(self, devices: int) -> int:
        """Count each device's micro-batches per update; ConfigError where it is no whole number."""
        if self.batch % (self.micro_batch * devices):
            raise ConfigError(
                f"batch={self.batch} cannot be divided among {devices} devices with "
                f"micro_batch={self.micro_batch}: take a multiple of {self.micro_batch * devices}"
            )
        return self.batch // (self.micro_batch * devices)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Read the output of `asdict`, also after JSON; ConfigError names unknown fields."""
        known = {field.name for field in dataclasses.fields(cls)}
        if strange := sorted(set(values) - known):
            raise ConfigError(f"unknown training settings: {', '.join(strange)}")
        made: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**made)


NANO_TRAINING = TrainingConfig(  # on a pool, which sets scales, noise levels and strides
    frames=1,
    crop=(128, 128),
    strides=(1,),
    stride_weights=(1,),
    start_share=0.8,  # most runs evaluate the network only there
    grid_weight=1.5,
    perceptual_weight=0.2,
    perceptual_share=0.5,
    perceptual_crop=64,
    batch=8,
    micro_batch=8,
    learning_rate=8e-4,
    final_learning_rate=0.1,
    warmup_steps=50,
    steps=20_000,
    weight_decay=1e-4,
    clip_gradient=0.5,
    ema_decay=0.998,
    trains_prior=True,  # no pretrained prior has this size: both learn together
    checkpoint_activations=False,
)
