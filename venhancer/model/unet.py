"""The 3D-UNet: an encoder and a middle (which the controller copies), and a decoder.

The guidance branches differ in their text only. So an input may be f c h w, shared by all b: it is
repeated to (b f) c h w by the first layer that reads text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from venhancer.config import UNetConfig
from venhancer.model.attention import KeysValues, SpatialTransformer, TemporalTransformer
from venhancer.model.kernels.forms import Fusable
from venhancer.model.layers import Downsample, GroupNorm, ResBlock, Upsample, repeat_branches

Texts = Iterator[KeysValues]  # keys and values of each spatial transformer, in order of execution
Keep = Callable[[Tensor], None]  # called with coarse features, (b f) c h w


class InputStage(nn.Module):
    """First convolution, then (where configured) a temporal transformer with its own width.

    x: (b f) latents h w; hint, added between the two: (b f) c h w -> (b f) c h w
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels = config.base_channels
        self.conv = nn.Conv2d(config.latent_channels, channels, 3, padding=1)
        self.temporal = (
            TemporalTransformer(channels, config, heads=config.first_temporal_heads)
            if config.first_temporal_heads
            else None
        )

    def forward(self, x: Tensor, frames: int, hint: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        if hint is not None:
            x = x + hint
        return x if self.temporal is None else self.temporal(x, frames)


class Stage(nn.Module):
    """A ResBlock and the transformers of its level; `Decoder` runs `upsample` where a level ends.

    x: (b f) c h w, embedding: (b f) e -> (b f) out h w
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        config: UNetConfig,
        *,
        spatial: bool,
        temporal: bool,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.resblock = ResBlock(channels, out_channels, config)
        self.spatial = SpatialTransformer(out_channels, config) if spatial else None
        self.temporal = TemporalTransformer(out_channels, config) if temporal else None
        self.upsample = Upsample(out_channels, config) if upsample else None

    def forward(self, x: Tensor, embedding: Tensor, texts: Texts, frames: int) -> Tensor:
        x = self.resblock(x, embedding, frames)
        if self.spatial is not None:
            x = self.spatial(x, next(texts), frames)
        return x if self.temporal is None else self.temporal(x, frames)


def level_stage(channels: int, level: int, config: UNetConfig, upsample: bool = False) -> Stage:
    """Make a stage of one level, with the transformers that the configuration gives it."""
    return Stage(
        channels,
        config.widths[level],
        config,
        spatial=level in config.spatial_levels,
        temporal=level in config.temporal_levels,
        upsample=upsample,
    )


class Encoder(nn.Module):
    """Encoder with one output per stage, the first convolution and downsamplings included.

    x: (b f) latents h w, embedding: (b f) e -> outputs, finest first
    is_finest: only those of the finest level
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.input = InputStage(config)
        self.stages = nn.ModuleList()
        self.finest_stages = config.blocks_per_level
        channels = config.base_channels
        for level, width in enumerate(config.widths):
            for _ in range(config.blocks_per_level):
                self.stages.append(level_stage(channels, level, config))
                channels = width
            if level < config.downsamplings:
                self.stages.append(Downsample(channels, config))

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        texts: Texts,
        frames: int,
        hint: Tensor | None = None,
        is_finest: bool = False,
    ) -> list[Tensor]:
        outputs = [self.input(x, frames, hint)]
        for stage in self.stages[: self.finest_stages] if is_finest else self.stages:
            last = outputs[-1]
            is_plain = isinstance(stage, Downsample)
            outputs.append(stage(last) if is_plain else stage(last, embedding, texts, frames))
        return outputs


def encoder_widths(config: UNetConfig) -> list[int]:
    """List the channels of all encoder outputs, equal to those of skips and zero convolutions."""
    widths = [config.base_channels]
    for level, width in enumerate(config.widths):
        is_last = level == config.downsamplings
        widths += [width] * (config.blocks_per_level + (0 if is_last else 1))
    return widths


class Middle(nn.Module):
    """ResBlock, transformers, ResBlock at the coarsest size."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        has_spatial, has_temporal = bool(config.spatial_levels), bool(config.temporal_levels)
        self.stage = Stage(width, width, config, spatial=has_spatial, temporal=has_temporal)
        self.resblock = ResBlock(width, width, config)

    def forward(self, x: Tensor, embedding: Tensor, texts: Texts, frames: int) -> Tensor:
        return self.resblock(self.stage(x, embedding, texts, frames), embedding, frames)


class Decoder(nn.Module):
    """Decoder back to full size; each stage first concatenates the skip of its encoder stage."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.finest_stages = config.blocks_per_level + 1
        skips = encoder_widths(config)
        channels = config.widths[-1]
        for level in reversed(range(len(config.widths))):
            for block in range(config.blocks_per_level + 1):
                upsample = level > 0 and block == config.blocks_per_level
                self.stages.append(level_stage(channels + skips.pop(), level, config, upsample))
                channels = config.widths[level]

    def forward(
        self,
        x: Tensor,
        skips: Sequence[Tensor],
        embedding: Tensor,
        texts: Texts,
        frames: int,
        keep: Keep | None = None,
    ) -> Tensor:
        """Run all stages; keep: called with the input of the finest level, before upsampling."""
        return self._run(0, x, skips, embedding, texts, frames, keep)

    def finest(
        self, x: Tensor, skips: Sequence[Tensor], embedding: Tensor, texts: Texts, frames: int
    ) -> Tensor:
        """Run the finest level only, on features that `keep` received; `skips` are its own."""
        first = len(self.stages) - self.finest_stages
        return self._run(first, x, skips, embedding, texts, frames, None)

    def _run(
        self,
        first: int,
        x: Tensor,
        skips: Sequence[Tensor],
        embedding: Tensor,
        texts: Texts,
        frames: int,
        keep: Keep | None,
    ) -> Tensor:
        count = len(self.stages)
        for number in range(first, count):
            if number == count - self.finest_stages and keep is not None:
                keep(x)
            upsample = self.stages[number - 1].upsample if number else None
            x = upsample(x) if isinstance(upsample, Upsample) else x
            x = torch.cat([x, repeat_branches(skips[count - 1 - number], len(x))], dim=1)
            x = self.stages[number](x, embedding, texts, frames)
        return x


class UNet(Fusable):
    """The frozen prior. The controller's residuals, if any, are added to middle and skips.

    x: (b f) latents h w, embedding: (b f) e -> (b f) latents h w
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.middle = Middle(config)
        self.decoder = Decoder(config)
        self.norm = GroupNorm(config.norm_groups, config.base_channels)
        self.head = nn.Conv2d(config.base_channels, config.latent_channels, 3, padding=1)

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        texts: Texts,
        frames: int,
        control: Sequence[Tensor],
        keep: Keep | None = None,
    ) -> Tensor:
        """Evaluate; keep: called with the features that `finest` takes at another timestep."""
        skips = self.encoder(x, embedding, texts, frames)
        x = self.middle(skips[-1], embedding, texts, frames)
        if control:
            *residuals, middle = control
            x = x + middle
            skips = [skip + extra for skip, extra in zip(skips, residuals, strict=True)]
        return self._head(self.decoder(x, skips, embedding, texts, frames, keep))

    def finest(
        self,
        x: Tensor,
        embedding: Tensor,
        texts: Texts,
        frames: int,
        control: Sequence[Tensor],
        coarse: Tensor,
    ) -> Tensor:
        """Evaluate the finest level only, with coarse features of another timestep."""
        skips = self.encoder(x, embedding, texts, frames, is_finest=True)
        skips = [skip + extra for skip, extra in zip(skips, control, strict=True)]
        return self._head(self.decoder.finest(coarse, skips, embedding, texts, frames))

    def _head(self, x: Tensor) -> Tensor:
        return self.head(self.forms.norm_silu(self.norm, x))
