"""Memory that a plan needs, counted before anything runs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch

from venhancer.config import PRESETS, ModelConfig
from venhancer.contract import DECODED_FRAMES
from venhancer.planning.activations import CODEC_MARGIN, DENOISER_MARGIN, denoiser_bytes
from venhancer.planning.cost import weight_bytes
from venhancer.planning.plan import Plan

PROCESS_BYTES = 750_000_000  # Python, PyTorch with its kernels and PyAV, measured
CONTEXT_BYTES = 600_000_000  # of CUDA on the card: assumed, not measured
GRAPH_BYTES = 2_000_000_000  # most activations for which graphs pay off: assumed, not measured
ONNX_CPU_MARGIN = 3.2  # times the count: NANO at 1280x720x3 took 3.0 times, 1.25 GB


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes at the peak of a run."""

    weights: int
    latents: int
    working: int  # activations and buffers, of the network or of the codec
    other: int  # process, or CUDA's context

    @property
    def total(self) -> int:
        return self.weights + self.latents + self.working + self.other


def need(plan: Plan, device: str, dtype: torch.dtype, has_graphs: bool = False) -> Need:
    """Count the bytes needed on the device that computes.

    A CPU holds everything; a card does not hold the latents that the host holds.
    has_graphs: PyTorch's work is repeated as CUDA graphs
    """
    is_cpu = device == "cpu"
    return Need(
        weights=_weights(plan.preset.model, dtype),
        latents=0 if plan.holds_latents_on_host and not is_cpu else plan.latent_bytes,
        working=_buffers(plan, dtype)
        + _together(plan, device, dtype, has_graphs)
        + is_cpu * _aligner(plan),
        other=PROCESS_BYTES if is_cpu else CONTEXT_BYTES,
    )


def _together(plan: Plan, device: str, dtype: torch.dtype, has_graphs: bool) -> int:
    """Count network and codec, which run in turn and share memory, except what CUDA graphs keep.

    A graph has a memory pool of its own, besides the memory that the calls before its capture have
    left with PyTorch's allocator. Engines have one pool for all.
    """
    network, codec = _denoiser(plan, device, dtype), _codec(plan, device, dtype)
    if plan.shape is not None and device == "cuda":
        return network + codec
    return max(network, codec) + has_graphs * network


def pays_by_graph(plan: Plan, device: str, dtype: torch.dtype) -> bool:
    """True if CUDA graphs are worth their memory, for networks of PyTorch.

    The host takes some ten milliseconds to launch an evaluation of any size. A graph saves this
    time where the card computes for less than that: where an evaluation's activations are small.
    """
    return device == "cuda" and _denoiser(plan, device, dtype) <= GRAPH_BYTES


def _weights(model: ModelConfig, dtype: torch.dtype) -> int:
    own = int(_stored_of(model, f"weights {_name(dtype)}")) or weight_bytes(model, dtype)
    if not model.has_learned_codec:
        return own
    return own + int(stored(f"vae weights {_name(dtype)}") + stored(f"text weights {_name(dtype)}"))


def _buffers(plan: Plan, dtype: torch.dtype) -> int:
    """Count the bytes that stay allocated between evaluations.

    `Evaluation`: x, hint and x_0 of a tile, and its neighbour channels. `Blending`: x_0 and noise
    of a window, and the results of a solver step. Coarse features, where steps reuse them.
    """
    sampling, (channels, rows, columns) = plan.sampling, plan.latents
    tile = len(sampling.rows[0]) * len(sampling.columns[0])
    values = (3 * channels + plan.preset.model.neighbour_channels) * tile
    own = 4 * sampling.window * (values + 4 * channels * rows * columns)
    return own + dtype.itemsize * plan.coarse_values


def _aligner(plan: Plan) -> int:
    """Count the host's bytes for key frames, their motion, and latents that wait for a hint.

    Making a hint is not counted: it takes less than the codec does.
    """
    count = plan.preset.model.neighbours
    if not count:
        return 0
    g, came_in = plan.geometry, plan.source.width * plan.source.height
    half = 3 * 4 * (g.padded_width // 2) * (g.padded_height // 2)
    flows = 2 * count * 2 * 4 * came_in  # between neighbours, both ways
    waiting = (count // 2 + 1) * 4 * math.prod(plan.latents)
    return (count + 1) * (half + 3 * came_in) + flows + waiting


def _denoiser(plan: Plan, device: str, dtype: torch.dtype) -> int:
    s = plan.sampling
    frames = max(map(plan.computed_frames, plan.scenes))
    model, branches = plan.preset.model, plan.sampling.branches
    if plan.shape and model.unet.text_width:  # both branches, which share nothing
        one = 2 * _denoiser_bytes_per_voxel(model, dtype, 1)
    else:
        one = _denoiser_bytes_per_voxel(model, dtype, branches)
    margin = ONNX_CPU_MARGIN if plan.shape and device == "cpu" else DENOISER_MARGIN[device]
    return int(margin * frames * len(s.rows[0]) * len(s.columns[0]) * one)


@cache
def _denoiser_bytes_per_voxel(model: ModelConfig, dtype: torch.dtype, branches: int) -> float:
    """Look up the bytes stored with the preset; for any other model, count them."""
    known = _stored_of(model, f"{_name(dtype)} {branches}")
    return known or denoiser_bytes_per_voxel(model, dtype, branches)


def denoiser_bytes_per_voxel(model: ModelConfig, dtype: torch.dtype, branches: int) -> float:
    """Count the bytes for a small tile once: they are linear in frames, rows and columns."""
    frames, columns = 9, 4 * model.unet.size_step
    rows = columns + model.unet.row_remainder
    total = denoiser_bytes(
        model, dtype, branches=branches, frames=frames, rows=rows, columns=columns
    )
    return total / (frames * rows * columns)


def _stored_of(model: ModelConfig, what: str) -> float:
    presets = (name for name, preset in PRESETS.items() if preset.model == model)
    return max((stored(f"{name} {what}") for name in presets), default=0.0)


def stored(name: str) -> float:
    """Look up bytes that were counted beforehand, by name; 0 for an unknown name."""
    return _stored().get(name, 0.0)


@cache
def _stored() -> dict[str, float]:
    text = (files("venhancer") / "presets" / "activations.json").read_text(encoding="utf-8")
    known: dict[str, float] = json.loads(text)
    return known


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _codec(plan: Plan, device: str, dtype: torch.dtype) -> int:
    """Count the bytes for one chunk of frames; a lapped transform takes a few copies of it."""
    g, stride = plan.geometry, plan.preset.model.latent_stride
    frame = 3 * 4 * g.padded_width * g.padded_height
    if not plan.preset.model.has_learned_codec:
        return 6 * DECODED_FRAMES * frame
    height, width = g.padded_height, g.padded_width
    if plan.codec_tile is not None:
        height = min(height, stride * plan.codec_tile[0])
        width = min(width, stride * plan.codec_tile[1])
    encoded = height * width * stored(f"vae encode {_name(dtype)}")
    decoded = DECODED_FRAMES * height * width * stored(f"vae decode {_name(dtype)}")
    return int(CODEC_MARGIN[device] * max(encoded, decoded)) + 2 * DECODED_FRAMES * frame
