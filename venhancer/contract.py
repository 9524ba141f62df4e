"""Every tensor of an exported network, described once; a number is fixed, a letter is a size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from venhancer.config import ModelConfig


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Letters: b clips, f frames, h w latent rows and columns, l text tokens."""

    name: str
    axes: str
    dtype: str = "float32"

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(int(a) if a.isdigit() else sizes[a] for a in self.axes.split())

    @property
    def dynamic_axes(self) -> dict[int, str]:
        return {i: a for i, a in enumerate(self.axes.split()) if not a.isdigit()}


def denoiser_inputs(model: ModelConfig) -> tuple[TensorSpec, ...]:
    """Inputs of `Denoiser`, in order; `text` only where the model has an encoder."""
    c, d = model.unet.latent_channels, model.unet.text_width
    text = (TensorSpec("text", f"b l {d}"),) if d else ()
    return (
        TensorSpec("latents", f"b {c} f h w"),
        TensorSpec("timestep", "b", "int64"),
        *text,
        TensorSpec("hint", f"b {c} f h w"),
        TensorSpec("is_key", "b f"),
        TensorSpec("noise_level", "b"),
        TensorSpec("scale", "b"),
    )


def denoiser_outputs(model: ModelConfig) -> tuple[TensorSpec, ...]:
    """v, or x_0, as the model predicts."""
    return (TensorSpec("prediction", f"b {model.unet.latent_channels} f h w"),)
