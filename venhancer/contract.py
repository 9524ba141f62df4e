"""Description of every tensor of the exported networks.

Axes are numbers, which are fixed, or letters: b branches of guidance, f frames, n = b f, h w latent
rows and columns, H W pixels, k frames that the codec decodes at a time, l text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from venhancer.config import ModelConfig, UNetConfig

Precision = Literal["float32", "float16"]
OPSET = 23  # the first ONNX opset with attention as one operator
TEXT_LENGTH = 77
DECODED_FRAMES = 3  # per call, as in the release; a temporal decoder sees them together


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The name, the axes and the element type of a tensor."""

    name: str
    axes: str
    dtype: str = "float32"

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(int(a) if a.isdigit() else sizes[a] for a in self.axes.split())

    @property
    def dynamic_axes(self) -> dict[int, str]:
        return {i: a for i, a in enumerate(self.axes.split()) if not a.isdigit()}


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Inputs and outputs of one exported network, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def condition_inputs(model: ModelConfig) -> tuple[TensorSpec, ...]:
    """List the controller's inputs for one window; `neighbours` only if the model uses any."""
    c, n = model.unet.latent_channels, model.neighbour_channels
    neighbours = (TensorSpec("neighbours", f"b {n} f h w"),) if n else ()
    return (TensorSpec("hint", f"b {c} f h w"), *neighbours, *told_inputs())


def told_inputs() -> tuple[TensorSpec, ...]:
    """List the inputs that say which frames are key frames, and how degraded they are."""
    return (
        TensorSpec("is_key", "b f"),
        TensorSpec("noise_level", "b"),
        TensorSpec("scale", "b"),
    )


def model_inputs(model: ModelConfig) -> tuple[TensorSpec, ...]:
    """List the inputs of `Denoiser.forward`; `text` only if the model has an encoder."""
    d = model.unet.text_width
    text = (TensorSpec("text", f"b l {d}"),) if d else ()
    return (*noisy_inputs(model), *text, *condition_inputs(model))


def noisy_inputs(model: ModelConfig) -> tuple[TensorSpec, ...]:
    """List the inputs that change from step to step."""
    latents = TensorSpec("latents", f"b {model.unet.latent_channels} f h w")
    return (latents, TensorSpec("timestep", "b", "int64"))


def text_features_width(unet: UNetConfig) -> int:
    """Count the channels of the joined keys and values of all spatial transformers."""
    encoder = [unet.widths[level] for level in unet.spatial_levels] * unet.blocks_per_level
    middle = [unet.widths[-1]] if unet.spatial_levels else []
    decoder = [unet.widths[level] for level in unet.spatial_levels] * (unet.blocks_per_level + 1)
    return 2 * sum(2 * (encoder + middle) + decoder)


def prepared(model: ModelConfig, precision: Precision) -> tuple[TensorSpec, ...]:
    """List the outputs of `prepare`, which do not depend on the timestep."""
    c, unet = model.unet.latent_channels, model.unet
    anchor = (TensorSpec("anchor", f"b {c} f h w"),) if model.prediction == "sample" else ()
    return (
        TensorSpec("hint_features", f"n {unet.base_channels} h w", precision),
        TensorSpec("condition", f"n {unet.embedding_width}", precision),
        *anchor,
    )


def denoiser_networks(model: ModelConfig, precision: Precision) -> tuple[NetworkSpec, ...]:
    """List the networks of the denoiser: `denoiser`, `prepare` and, with text, `text_keys`.

    `denoiser` is one evaluation, and gives v or x_0, as the model predicts. The others compute
    what does not depend on the timestep.
    """
    d = model.unet.text_width
    text = TensorSpec("text_features", f"b l {text_features_width(model.unet)}", precision)
    prediction = TensorSpec("prediction", f"b {model.unet.latent_channels} f h w")
    once = prepared(model, precision)
    inputs = (*noisy_inputs(model), *once, *([text] if d else []))
    always = (
        NetworkSpec("denoiser", inputs, (prediction,)),
        NetworkSpec("prepare", condition_inputs(model), once),
    )
    if not d:
        return always
    return (*always, NetworkSpec("text_keys", (TensorSpec("text", f"b l {d}"),), (text,)))


def codec_networks(model: ModelConfig) -> tuple[NetworkSpec, ...]:
    """List the networks of the learned codec and the text encoder, if the model has them."""
    if not model.has_learned_codec:
        return ()
    c, d = model.unet.latent_channels, model.unet.text_width
    frame, pixels = TensorSpec("frames", "1 3 H W"), TensorSpec("frames", "k 3 H W")
    moments = (TensorSpec("mean", f"1 {c} h w"), TensorSpec("std", f"1 {c} h w"))
    latents = TensorSpec("latents", f"k {c} h w")
    ids, text = TensorSpec("ids", "b l", "int64"), TensorSpec("text", f"b l {d}")
    return (
        NetworkSpec("vae_encoder", (frame,), moments),
        NetworkSpec("vae_decoder", (latents,), (pixels,)),
        NetworkSpec("text_encoder", (ids,), (text,)),
    )


def networks(model: ModelConfig, precision: Precision) -> dict[str, NetworkSpec]:
    """List every network of a bundle, by name."""
    specs = (*denoiser_networks(model, precision), *codec_networks(model))
    return {spec.name: spec for spec in specs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Input size of static networks: a frame in pixels, a window in frames."""

    width: int
    height: int
    window: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.window}"


def sizes(model: ModelConfig, shape: Shape) -> dict[str, int]:
    """Give the size of each letter for one shape; with text, there are two branches."""
    branches = 2 if model.unet.text_width else 1
    return {
        "b": branches,
        "f": shape.window,
        "n": branches * shape.window,
        "h": shape.height // model.latent_stride,
        "w": shape.width // model.latent_stride,
        "H": shape.height,
        "W": shape.width,
        "k": DECODED_FRAMES,
        "l": TEXT_LENGTH,
    }
