"""Presets for several tests: too small to be useful, or of an edition that is gone."""

from __future__ import annotations

from venhancer.config import ModelConfig, Preset, RunDefaults, Shortcuts, UNetConfig

SMALL_UNET = Preset(  # the second edition of the built-in model: a UNet that predicts x_0
    name="small-unet",
    model=ModelConfig(
        unet=UNetConfig(
            latent_channels=48,
            base_channels=48,
            multipliers=(1, 2, 2),
            blocks_per_level=1,
            spatial_levels=(),
            temporal_levels=(2,),
            head_channels=48,
            first_temporal_heads=0,
            text_width=0,
            norm_groups=8,
            temporal_convs=2,
            extra_rows=0,
        ),
        prediction="sample",
        residual_std=0.1,
        codec="lapped",
        latent_scale=2.0,
        upsampling="bicubic",
    ),
    defaults=RunDefaults(
        steps=4,
        solver="normal",
        eta=0.0,
        guidance=1.0,
        window=33,
        overlap=0.25,
        refine=0,
        fast=Shortcuts(steps=2, reuse=2),
    ),
)
