"""Frozen encoders used in training: clips into latents, captions into context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from venhancer.config import Preset
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.model import lapped
from venhancer.pipeline.networks import Codec, LappedCodec, TextEncoder

Encode = Callable[[Tensor, torch.Generator], Tensor]  # b f 3 H W in [-1, 1] -> b c f h w
EncodeText = Callable[[list[str]], Tensor]  # captions -> b l d
Decode = Callable[[Tensor], Tensor]  # b c h w -> b 3 H W in [-1, 1], differentiable


@dataclass(frozen=True, slots=True)
class Encoders:
    """The codec of a preset and, for a model with text, its text encoder.

    An autoencoder samples with the generator that `pixels` is called with.
    """

    pixels: Encode
    text: EncodeText | None = None
    decode: Decode | None = None  # only if decoding is almost free
    codec: Codec | None = None  # both for the pipeline, which makes samples
    text_encoder: TextEncoder | None = None


def load_encoders(preset: Preset, device: str) -> Encoders:
    """Load the preset's encoders; the released ones are downloaded where they are missing."""
    if not preset.model.has_learned_codec:
        return lapped_encoders(preset.model.latent_scale)
    from venhancer.encoders.autoencoder import load_codec
    from venhancer.encoders.text_encoder import load_text_encoder

    text, codec = load_text_encoder(device=device), load_codec(device=device)
    return Encoders(
        autoencoder_encode(codec),
        lambda captions: torch.cat([text.encode(caption) for caption in captions]),
        codec=codec,
        text_encoder=text,
    )


def lapped_encoders(scale: float) -> Encoders:
    """Make the encoders of NANO: its codec, and no text."""

    def encode(clips: Tensor, _: torch.Generator) -> Tensor:
        latents = lapped.encode(clips.flatten(0, 1), scale)
        return rearrange(latents, "(b f) c h w -> b c f h w", b=len(clips))

    decode = partial(lapped.decode, scale=scale)
    return Encoders(encode, decode=decode, codec=LappedCodec(scale))


def autoencoder_encode(codec: AutoencoderCodec) -> Encode:
    """Make the encoding function of the released model's codec, which samples latents."""

    def encode(clips: Tensor, generator: torch.Generator) -> Tensor:
        latents = codec.encode(clips.flatten(0, 1), generator)
        latents = latents.clone()  # out of inference mode, so that gradients may pass
        return rearrange(latents, "(b f) c h w -> b c f h w", b=len(clips))

    return encode
