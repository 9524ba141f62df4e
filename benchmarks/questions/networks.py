"""Candidates among larger parts: text, guidance, controller and encoder, the autoencoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.questions.layers import LEVELS, Setting
from benchmarks.questions.pairs import Case, Way, Ways
from benchmarks.speed import plain_network
from venhancer.config import VAE_STRIDE
from venhancer.contract import TEXT_LENGTH
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.errors import DeviceError
from venhancer.model.attention import SpatialTransformer
from venhancer.model.denoiser import Denoiser, Prepared
from venhancer.planning.activations import VAE_CHANNELS, autoencoder

LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
BATCH = 3  # frames that the autoencoder takes at a time


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the cases of a model with text; guidance and the autoencoder come with it."""
    rows, columns = setting.latent
    for level in LEVELS:
        size = "{} x {}".format(*setting.size(level))
        layer = f"SpatialTransformer, {setting.images} x {setting.unet.widths[level]} x {size}"
        yield Case("keys and values of text", layer, partial(text_ways, setting, level))
    window = f"{setting.frames} x {rows} x {columns} latents"
    yield Case("guidance", window, partial(guidance_ways, setting))
    yield Case("controller and encoder", window, partial(stream_ways, setting))
    frames = "{} frames of {} x {}".format(BATCH, *setting.codec)
    yield Case("autoencoder", f"encode {frames}", partial(encoding_ways, setting))
    yield Case("autoencoder", f"decode {frames}", partial(decoding_ways, setting))


def text_ways(setting: Setting, level: int) -> Ways:
    config, frames = setting.unet, setting.frames
    ours = setting.build(lambda: SpatialTransformer(config.widths[level], config))
    plain = plain_network.SpatialTransformer(ours)
    x = setting.pixels(level)
    text = setting.random(setting.branches, TEXT_LENGTH, config.text_width)
    ready = ours.text_keys_values(text)
    return {
        "of every frame": Way(lambda: plain(x, text.repeat_interleave(frames, dim=0))),
        "at each evaluation": Way(lambda: ours(x, ours.text_keys_values(text), frames)),
        "once": Way(lambda: ours(x, ready, frames)),
    }


def prepare(setting: Setting, model: Denoiser, hint: Tensor, text: Tensor) -> Prepared:
    """Prepare an evaluation for the branches of `text` (b l d); hint: 1 c f h w."""
    device = setting.device
    is_key = (torch.arange(setting.frames, device=device) % 2 == 0).float()
    return model.prepare(
        hint=hint,
        is_key=is_key[None],
        noise_level=torch.full((1,), 199.0, device=device),
        scale=torch.full((1,), 4.0, device=device),
        text_features=model.prepare_text(text),
    )


def guidance_ways(setting: Setting) -> Ways:
    model = setting.denoiser()
    size = (1, setting.unet.latent_channels, setting.frames, *setting.latent)
    latents, hint = setting.random(*size), setting.random(*size)
    text = setting.random(setting.branches, TEXT_LENGTH, setting.unet.text_width)
    timestep = torch.full((1,), 500, device=setting.device)

    def evaluate(parts: Sequence[Prepared]) -> Tensor:
        return torch.cat([model.step(latents, timestep, part) for part in parts])

    passes = [prepare(setting, model, hint, branch) for branch in text.split(1)]
    batches = [prepare(setting, model, hint, text)]
    return {
        "two passes": Way(partial(evaluate, passes)),
        "one batch": Way(partial(evaluate, batches)),
    }


def stream_ways(setting: Setting) -> Ways:
    model, frames = setting.denoiser(), setting.frames
    latents = setting.random(setting.images, setting.unet.latent_channels, *setting.latent)
    x = latents.contiguous(memory_format=torch.channels_last)
    hint = setting.pixels(0)
    embedding = setting.random(setting.images, setting.unet.embedding_width)
    text = setting.random(setting.branches, TEXT_LENGTH, setting.unet.text_width)
    features = model.prepare_text(text)
    side = torch.cuda.Stream() if setting.device == "cuda" else None

    def in_turn() -> list[Tensor]:
        texts = model.read_texts(features)
        control = model.controller(x, embedding, texts, frames, hint)
        skips = model.unet.encoder(x, embedding, texts, frames)
        return [*control, model.unet.middle(skips[-1], embedding, texts, frames)]

    def side_by_side() -> list[Tensor]:
        if side is None:
            raise DeviceError("streams need a CUDA device")
        texts, main = model.read_texts(features), torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            control = model.controller(x, embedding, texts, frames, hint)
        skips = model.unet.encoder(x, embedding, texts, frames)
        middle = model.unet.middle(skips[-1], embedding, texts, frames)
        main.wait_stream(side)
        return [*control, middle]

    return {"one after the other": Way(in_turn), "on two streams": Way(side_by_side)}


def encoding_ways(setting: Setting) -> Ways:
    def encode(codec: AutoencoderCodec, frames: Tensor, chunk: int) -> Tensor:
        return codec.encode(frames, torch.Generator().manual_seed(0), chunk)

    return codec_ways(setting, encode, setting.random(BATCH, 3, *setting.codec).clamp(-1, 1))


def decoding_ways(setting: Setting) -> Ways:
    rows, columns = (size // VAE_STRIDE for size in setting.codec)
    latents = setting.random(BATCH, VAE_CHANNELS, rows, columns)
    return codec_ways(setting, AutoencoderCodec.decode, latents)


def codec_ways(
    setting: Setting, work: Callable[[AutoencoderCodec, Tensor, int], Tensor], x: Tensor
) -> Ways:
    """Process frames one by one and all at once, in both layouts of the same random weights."""
    network = autoencoder().eval().requires_grad_(False)
    nn.Module.to(network, setting.device, setting.dtype)
    ways = {}
    for name, layout in LAYOUTS.items():
        own = copy.deepcopy(network)
        nn.Module.to(own, memory_format=layout)  # type: ignore[call-overload]
        codec, given = AutoencoderCodec(own), x.contiguous(memory_format=layout)
        ways[f"one by one, {name}"] = Way(partial(work, codec, given, 1))
        ways[f"one batch, {name}"] = Way(partial(work, codec, given, BATCH))
    return ways
