"""What a training run is made of: one frozen dataclass, saved in every checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from venhancer.errors import ConfigError

Sharding = Literal["none", "optimizer", "parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Every default is the paper's (its section is named), or what the paper leaves open."""

    # data (4.1: 720p centre crops at 24 fps by frame skipping; text dropped in a tenth)
    frames: int = 33  # true frames a clip, about: it begins and ends on key frames
    crop: tuple[int, int] = (1280, 720)  # width, height
    fps: float = 24.0  # faster clips are thinned out to about this
    clips_a_decode: int = 1  # crops of one decoded run, spread over many batches
    photo_share: float = 0.25  # of clips, where there are photos: pans and zooms
    text_drop: float = 0.1

    # space-time augmentation (3.3)
    strides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    stride_weights: tuple[float, ...] = (1, 1, 1, 1, 1, 1, 1, 1)
    max_scale: float = 8.0
    scale_power: float = 1.0  # density of s is proportional to s to this power: 4x to 8x as 1:2
    usual_scale: float = 4.0
    usual_share: float = 0.0  # of clips that are degraded by just that
    bicubic_share: float = 0.0  # of clips that are downscaled bicubically, not bilinearly
    max_noise_level: int = 300
    noise_level_power: float = 1.0  # above 1: more clips with little noise
    clean_share: float = 0.0  # of clips whose key frames are shown without noise

    # objective (4.1: v-prediction, mean squared error)
    timestep_power: float = 1.0  # below 1: noisy timesteps more often
    start_share: float = 0.0  # of clips that are diffused as far as a run begins with
    grid_weight: float = 0.0  # of what shows a lapped codec's blocks as a grid
    perceptual_weight: float = 0.0  # of LPIPS between a decoded frame a clip and the truth
    perceptual_share: float = 1.0  # of clips that it looks at
    perceptual_crop: int = 0  # pixels a side that it sees of a frame; 0: all

    # distillation, with a teacher alone: evaluations of a run of each (solver `normal`)
    student_evaluations: int = 4
    teacher_evaluations: int = 14  # one more: a multiple of the student's and one

    # optimiser (4.1: AdamW, 1e-5, 256 clips an update; prior frozen)
    batch: int = 256  # clips an update, on all devices together
    micro_batch: int = 1  # clips that a device takes at once; the rest is accumulated
    learning_rate: float = 1e-5
    final_learning_rate: float = 1.0  # share of it at the end of a cosine; 1 keeps it constant
    warmup_steps: int = 100
    steps: int = 10_000
    weight_decay: float = 0.01
    clip_gradient: float = 1.0
    ema_decay: float = 0.9999
    trains_prior: bool = False  # else the UNet is frozen and only the controller learns
    trains_repair: bool = False  # of a flat body: its repair alone, on flawed samples alone
    seed: int = 0

    # how it is computed: none of these changes what is learned
    precision: Literal["bf16", "float32"] = "bf16"
    sharding: Sharding = "none"  # over devices: nothing, optimiser and gradients, weights too
    checkpoint_activations: bool = True  # compute them twice instead of keeping them

    # what is written, in updates
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
        """True frames that the longest clip needs."""
        return max(self.frames, max(self.strides) + 1)

    def accumulation(self, devices: int) -> int:
        """Micro-batches of each device in an update; ConfigError where it is no number."""
        if self.batch % (self.micro_batch * devices):
            raise ConfigError(
                f"batch={self.batch} cannot be divided among {devices} devices with "
                f"micro_batch={self.micro_batch}: take a multiple of {self.micro_batch * devices}"
            )
        return self.batch // (self.micro_batch * devices)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Read what `asdict` gave, by way of JSON too; ConfigError names a strange field."""
        known = {field.name for field in dataclasses.fields(cls)}
        if strange := sorted(set(values) - known):
            raise ConfigError(f"unknown training settings: {', '.join(strange)}")
        made: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**made)


NANO_TRAINING = TrainingConfig(  # on a pool: scales, noise levels and strides are the pool's
    frames=1,
    crop=(128, 128),
    strides=(1,),
    stride_weights=(1,),
    start_share=0.8,  # most runs evaluate the network there alone
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
    trains_prior=True,  # there is no pretrained prior of this size: both learn together
    checkpoint_activations=False,
)
