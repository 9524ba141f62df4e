"""The results of PyTorch in float32 for a case: one call of each network, and whole runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from venhancer.config import Preset
from venhancer.contract import DECODED_FRAMES
from venhancer.pipeline.networks import LappedCodec
from venhancer.planning.capacity import capacity_for
from venhancer.sampling.evaluation import Model
from venhancer.sampling.latents import Latents
from venhancer.sampling.sampler import Placement, Sampler
from venhancer_export.parity import cases
from venhancer_export.parity.candidates import PyTorch
from venhancer_export.parity.cases import TIMESTEPS, Case
from venhancer_export.parity.runners import Runs

Decode = Callable[[Tensor], Tensor]  # latents f c h w -> pictures f c h w, in 0..1


@dataclass(frozen=True, slots=True)
class Sample:
    """One call of one network: its inputs, and the outputs of PyTorch in float32."""

    network: str
    at: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Expected:
    """Results of PyTorch in float32 for one case."""

    case: Case
    samples: list[Sample]
    latents: Mapping[float, Tensor]  # of whole runs, by eta: f c h w


def expect(
    oracle: PyTorch, preset: Preset, case: Case, etas: Sequence[float], device: str
) -> Expected:
    """Run the case: one call of each network, and a whole run for each of `etas`."""
    latents = {eta: sample_run(oracle.denoiser, preset, case, eta, device) for eta in etas}
    return Expected(case, list(samples(oracle, preset, case)), latents)


def samples(oracle: PyTorch, preset: Preset, case: Case) -> Iterator[Sample]:
    """Call every network as a run does, with the outputs of the networks before it."""
    given, made = cases.once_inputs(preset, case.shape), {}
    for network in ("text_keys", "prepare"):
        if network in oracle.runs:
            outputs = oracle.runs[network](given)
            made.update(outputs)
            yield Sample(network, "", given, outputs)
    for timestep in TIMESTEPS:
        inputs = {**cases.noisy_inputs(preset, case.shape, timestep), **made}
        yield Sample("denoiser", f"t {timestep}", inputs, oracle.runs["denoiser"](inputs))
    if "vae_decoder" in oracle.runs:
        yield from _companion_samples(oracle, case)


def _companion_samples(oracle: PyTorch, case: Case) -> Iterator[Sample]:
    given = cases.pictures_and_ids(case.shape, oracle.vocabulary)
    encoded = []
    for frame in given["frames"].split(1):
        encoded.append(oracle.runs["vae_encoder"]({"frames": frame}))
    yield Sample("vae_encoder", "", {"frames": given["frames"][:1]}, encoded[0])
    latents = {"latents": torch.cat([moments["mean"] for moments in encoded])}
    yield Sample("vae_decoder", "", latents, oracle.runs["vae_decoder"](latents))
    yield Sample("text_encoder", "", given, oracle.runs["text_encoder"](given))


def sample_run(model: Model, preset: Preset, case: Case, eta: float, device: str) -> Tensor:
    """Compute x_0 by a whole run: f c h w. The noise is seeded, the same for all candidates."""
    sampling, scene = cases.sampling(preset, case.shape, eta), cases.scene(case.shape)
    keys = cases.keys(preset, case.shape)
    size = (preset.model.unet.latent_channels, *keys.shape[2:])
    room = capacity_for((scene,), len(sampling.schedule))
    placement = Placement(device=device)
    with torch.inference_mode():
        sampler = Sampler(
            model,
            sampling,
            cases.conditions(preset, case.shape),
            Latents(room, size, device, preset.model.neighbour_channels),
            placement,
        )
        return torch.cat(list(sampler.run(scene, iter(keys), 0, lambda: None)))


def decoder(preset: Preset, runs: Runs) -> Decode | None:
    """Make a decoder to pictures in 0..1, by PyTorch in float32; None where there is none."""
    scale = preset.model.latent_scale
    if not preset.model.has_learned_codec:
        return lambda latents: (LappedCodec(scale).decode(latents) + 1) / 2
    if "vae_decoder" not in runs:
        return None
    run = runs["vae_decoder"]

    def decode(latents: Tensor) -> Tensor:
        parts = (latents / scale).split(DECODED_FRAMES)
        return torch.cat([(run({"latents": part})["frames"] + 1) / 2 for part in parts])

    return decode


def pictures_of(expected: Expected) -> Decode:
    """Make a decoder that scales latents: the oracle's least is 0, and its largest is 1."""
    if not expected.latents:
        return lambda latents: latents
    known = torch.cat(list(expected.latents.values()))
    low, high = known.min(), known.max()
    return lambda latents: (latents - low) / (high - low)
