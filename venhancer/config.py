"""Every size and preset: frozen, checked when made, written into each checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from venhancer.errors import ConfigError

VAE_STRIDE = 8  # pixels to a latent position, in every Stable Diffusion VAE

Prediction = Literal["v", "sample"]
CodecName = Literal["autoencoder", "lapped"]
SolverName = Literal["fast", "normal"]
Upsampling = Literal["bilinear", "bicubic"]
Body = Literal["unet", "flat"]
ColorFix = Literal["none", "wavelet", "adain", "lab"]
NewFrames = Literal["model", "motion"]  # maker of the frames between key frames


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """Sizes of the denoising network; the defaults are the released checkpoint.

    `unet`: a 3D-UNet as prior and the Space-Time Controller that copies its encoder. `flat`: one
    level of `blocks_per_level` residual blocks without normalisation, for prior and controller
    together; it processes each frame by itself, so it has no text and no temporal layers.
    """

    body: Body = "unet"
    latent_channels: int = 4
    base_channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks_per_level: int = 2
    spatial_levels: tuple[int, ...] = (0, 1, 2)
    temporal_levels: tuple[int, ...] = (0, 1, 2)
    head_channels: int = 64
    first_temporal_heads: int = 8  # of the transformer right after the first convolution; 0: none
    text_width: int = 1024  # 0: no text encoder
    norm_groups: int = 32
    temporal_convs: int = 4  # in the temporal block at the end of each ResBlock
    extra_rows: int = 1  # rows that each downsampling adds beyond the usual padding of one
    repair_blocks: int = 0  # flat body only: they clean a hint whose noise level is above 0

    def __post_init__(self) -> None:
        if self.body == "flat":
            self._check_flat()
            return
        if self.repair_blocks:
            raise ConfigError(f"repair_blocks={self.repair_blocks}: only a flat body has any")
        for level, width in enumerate(self.widths):
            if width % self.norm_groups:
                raise ConfigError(
                    f"level {level} has {width} channels, not a multiple of "
                    f"norm_groups={self.norm_groups}"
                )
            if self._attends(level) and width % self.head_channels:
                raise ConfigError(
                    f"level {level} has {width} channels, not a multiple of "
                    f"head_channels={self.head_channels}"
                )
        if self.spatial_levels and not self.text_width:
            raise ConfigError("spatial transformers attend to text: with text_width=0, use none")

    def _check_flat(self) -> None:
        """Raise ConfigError for settings that a flat body does not have."""
        absent = {
            "spatial_levels": self.spatial_levels,
            "temporal_levels": self.temporal_levels,
            "first_temporal_heads": self.first_temporal_heads,
            "text_width": self.text_width,
            "norm_groups": self.norm_groups,
            "temporal_convs": self.temporal_convs,
            "extra_rows": self.extra_rows,
        }
        present = [name for name, value in absent.items() if value]
        if present or self.multipliers != (1,):
            raise ConfigError(
                f"a flat body has one level and none of {', '.join(present) or 'its others'}: "
                f"give multipliers=(1,) and zero (or no) {', '.join(absent)}"
            )

    def _attends(self, level: int) -> bool:
        is_last = level == len(self.multipliers) - 1
        in_middle = is_last and bool(self.spatial_levels or self.temporal_levels)
        return in_middle or level in self.spatial_levels or level in self.temporal_levels

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.base_channels * m for m in self.multipliers)

    @property
    def embedding_width(self) -> int:
        return 4 * self.base_channels

    @property
    def downsamplings(self) -> int:
        return len(self.multipliers) - 1

    @property
    def has_coarse_features(self) -> bool:
        """True where there are levels below the finest, whose features steps can share."""
        return self.body == "unet"

    def coarse_size(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Compute channels, rows and columns of the coarser levels' input to the finest one."""
        if not self.downsamplings:
            return self.widths[0], rows, columns
        return self.widths[1], (rows + 1) // 2 + self.extra_rows, (columns + 1) // 2

    @property
    def size_step(self) -> int:
        """Period of the latent heights and widths that the network takes."""
        return int(2**self.downsamplings)

    @property
    def row_remainder(self) -> int:
        """A latent height must be congruent to this, modulo `size_step`; a width to 0."""
        return 2 * self.extra_rows % self.size_step


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A denoiser, what its last layer predicts, and the codec that its latents come from."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    prediction: Prediction = "v"
    residual_std: float = 0.0  # `sample` only: spread of true latents around the interpolated hint
    codec: CodecName = "autoencoder"
    latent_scale: float = 0.18215
    upsampling: Upsampling = "bilinear"  # of the key frames, before they are encoded
    neighbours: int = 0  # aligned key frames, before and after, that a key frame's hint includes

    def __post_init__(self) -> None:
        if (self.prediction == "sample") != (self.residual_std > 0):
            raise ConfigError(
                f"prediction={self.prediction!r} with residual_std={self.residual_std}: "
                "`sample` needs a positive spread, `v` has none"
            )
        if self.neighbours and self.unet.body != "flat":
            raise ConfigError(f"neighbours={self.neighbours}: only a flat body sees any")
        if self.unet.body == "flat" and (self.prediction, self.codec) != ("sample", "lapped"):
            raise ConfigError("a flat body predicts a `sample` of the `lapped` codec")
        if self.neighbours % 2 or self.neighbours < 0:
            raise ConfigError(f"neighbours={self.neighbours}: take as many before as after")

    @property
    def has_learned_codec(self) -> bool:
        """True if latents come from a trained autoencoder, not from the fixed lapped transform."""
        return self.codec == "autoencoder"

    @property
    def latent_stride(self) -> int:
        """Pixels per latent position, in each direction."""
        return VAE_STRIDE if self.has_learned_codec else 4

    @property
    def neighbour_channels(self) -> int:
        """Channels of the aligned neighbours, as large as the latents: `motion/neighbours.py`."""
        return 13 * self.neighbours  # four pixels of three colours, and a gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """Options that make a run faster but change its frames; the defaults change nothing."""

    steps: int | None = None  # instead of the preset's
    reuse: int = 1  # number of steps that share coarse features
    guidance_interval: tuple[int, int] = (0, 999)  # timesteps at which guidance acts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDefaults:
    """Settings of a run where the user gives none."""

    steps: int = 15
    solver: SolverName = "fast"
    guidance: float = 7.5
    eta: float = 1.0
    window: int = 25
    longest_window: int | None = None  # used if it evaluates fewer frames in all; None: window
    overlap: float = 0.5  # approximate share of a window that the next one repeats
    scale: float = 4.0
    refine: int = 200
    detail: float = 1.0  # conditioning scale over output scale; below 1 sharpens less
    tile: tuple[int, int] = (1280, 720)  # width, height in pixels
    fast: Shortcuts = Shortcuts(reuse=2, guidance_interval=(200, 800))  # of `--mode fast`
    new_frames: NewFrames = "model"
    color_fix: ColorFix = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A model with its defaults, under the name that `--preset` takes."""

    name: str
    model: ModelConfig
    defaults: RunDefaults = field(default_factory=RunDefaults)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preset:
        """Read the preset in a checkpoint's metadata; ConfigError names an unknown field."""
        try:
            fields = json.loads(text)
            model = dict(fields["model"])
            unet = _build(UNetConfig, model.pop("unet"))
            defaults = dict(fields["defaults"])
            if "fast" in defaults:
                defaults["fast"] = _build(Shortcuts, defaults["fast"])
            return cls(
                name=fields["name"],
                model=_build(ModelConfig, {**model, "unet": unet}),
                defaults=_build(RunDefaults, defaults),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"unreadable model configuration: {error}") from error


T = TypeVar("T")


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


RELEASED = Preset(
    name="released",
    model=ModelConfig(),
    defaults=RunDefaults(window=25, longest_window=33, color_fix="wavelet"),
)

TINY = Preset(
    name="tiny",
    model=ModelConfig(unet=UNetConfig(base_channels=32, head_channels=16, first_temporal_heads=2)),
)

NANO = Preset(
    name="nano",
    model=ModelConfig(
        unet=UNetConfig(
            body="flat",
            latent_channels=48,
            base_channels=64,
            multipliers=(1,),
            blocks_per_level=6,
            spatial_levels=(),
            temporal_levels=(),
            first_temporal_heads=0,
            text_width=0,
            norm_groups=0,
            temporal_convs=0,
            extra_rows=0,
            repair_blocks=3,
        ),
        prediction="sample",
        residual_std=0.1,
        codec="lapped",
        latent_scale=2.0,
        upsampling="bicubic",
        neighbours=4,
    ),
    defaults=RunDefaults(
        steps=1,
        solver="normal",
        eta=0.0,
        guidance=1.0,
        window=3,
        overlap=0.0,
        refine=0,
        new_frames="motion",
        fast=Shortcuts(),  # there is only one step, and there are no coarse features
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in (NANO, RELEASED, TINY)}
