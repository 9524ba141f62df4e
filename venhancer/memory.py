"""What a run needs of memory, and the plans that fit: the largest one first, then what to fall to.

Fitting gives up nothing at first (latents in the host's memory), then the codec goes in tiles, then
the network's tiles get smaller, and windows last.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import takewhile

import torch

from venhancer.activations import CODEC_MARGIN, DENOISER_MARGIN, denoiser_bytes
from venhancer.config import PRESETS, ModelConfig, Preset
from venhancer.contract import DECODED_FRAMES
from venhancer.device import free_memory
from venhancer.errors import OptionError
from venhancer.estimate import weight_bytes
from venhancer.options import GB, Options
from venhancer.plan import Plan, cheapest_window, make_plan
from venhancer.video import Clip

PROCESS_BYTES = 750_000_000  # Python, PyTorch with its kernels and PyAV, measured
CONTEXT_BYTES = 600_000_000  # of CUDA on the card: not measured, assumed
GRAPH_BYTES = 2_000_000_000  # of activations, up to which graphs pay: not measured, assumed
FREE_SHARE = 0.9  # of what is free, taken where no limit is given
WINDOW_SHARES = (1.0, 0.75, 0.5, 0.25)  # of the preset's window
LEAST_WINDOW = 2  # frames: as `Options.window` has it
TILE_SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)  # of the preset's tile, or of the frame if that is less
LEAST_TILE = 96  # pixels
CODEC_TILES = (64, 32)  # rows and columns of latents
ONNX_CPU_MARGIN = 3.2  # over what is counted: 3.0 times was seen for NANO at 1280x720x3, 1.25 GB


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
    """On the device that computes; a CPU has everything, a card no latents that the host holds.

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
    """Network and codec take turns, but for what CUDA graphs keep.

    A graph has a pool of its own, beside the memory that the calls before its capture have left
    with PyTorch. Engines have one for all.
    """
    network, codec = _denoiser(plan, device, dtype), _codec(plan, device, dtype)
    if plan.shape is not None and device == "cuda":
        return network + codec
    return max(network, codec) + has_graphs * network


def pays_by_graph(plan: Plan, device: str, dtype: torch.dtype) -> bool:
    """Whether CUDA graphs are worth their memory, for networks of PyTorch.

    Launching an evaluation takes the host some ten milliseconds, whatever its size. A graph saves
    these where the card has less to do than that: where an evaluation's activations are small.
    """
    return device == "cuda" and _denoiser(plan, device, dtype) <= GRAPH_BYTES


def _weights(model: ModelConfig, dtype: torch.dtype) -> int:
    own = int(_stored_of(model, f"weights {_name(dtype)}")) or weight_bytes(model, dtype)
    if model.codec != "autoencoder":
        return own
    return own + int(stored(f"vae weights {_name(dtype)}") + stored(f"text weights {_name(dtype)}"))


def _buffers(plan: Plan, dtype: torch.dtype) -> int:
    """Bytes that stay from evaluation to evaluation.

    Of `Evaluation`: x, hint and x_0 of a tile, and what is shown of neighbours. Of `Blending`: x_0
    and noise of a window, and what a solver step makes of it. Coarse features, where steps reuse
    them.
    """
    sampling, (channels, rows, columns) = plan.sampling, plan.latents
    tile = len(sampling.rows[0]) * len(sampling.columns[0])
    values = (3 * channels + plan.preset.model.neighbour_channels) * tile
    own = 4 * sampling.window * (values + 4 * channels * rows * columns)
    return own + dtype.itemsize * plan.coarse_values


def _aligner(plan: Plan) -> int:
    """Bytes of the host that hold key frames and their motion, and latents that wait for a hint.

    What it takes to make a hint of them is less than the codec takes.
    """
    count = plan.preset.model.neighbours
    if not count:
        return 0
    g, came_in = plan.geometry, plan.source.width * plan.source.height
    half = 3 * 4 * (g.padded_width // 2) * (g.padded_height // 2)
    flows = 2 * count * 2 * 4 * came_in  # between neighbours, there and back
    waiting = (count // 2 + 1) * 4 * math.prod(plan.latents)
    return (count + 1) * (half + 3 * came_in) + flows + waiting


def _denoiser(plan: Plan, device: str, dtype: torch.dtype) -> int:
    s = plan.sampling
    frames = max(map(plan.computed_frames, plan.scenes))
    model, branches = plan.preset.model, plan.sampling.branches
    if plan.shape and model.unet.text_width:  # both branches, and nothing is shared by them
        one = 2 * _denoiser_bytes_per_voxel(model, dtype, 1)
    else:
        one = _denoiser_bytes_per_voxel(model, dtype, branches)
    margin = ONNX_CPU_MARGIN if plan.shape and device == "cpu" else DENOISER_MARGIN[device]
    return int(margin * frames * len(s.rows[0]) * len(s.columns[0]) * one)


@cache
def _denoiser_bytes_per_voxel(model: ModelConfig, dtype: torch.dtype, branches: int) -> float:
    """As stored with the preset; of another model, counted."""
    known = _stored_of(model, f"{_name(dtype)} {branches}")
    return known or denoiser_bytes_per_voxel(model, dtype, branches)


def denoiser_bytes_per_voxel(model: ModelConfig, dtype: torch.dtype, branches: int) -> float:
    """They are linear in frames, rows and columns: counted once, for a small tile."""
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
    """Bytes of activations by their size, counted beforehand; 0 where there is none."""
    return _stored().get(name, 0.0)


@cache
def _stored() -> dict[str, float]:
    text = (files("venhancer") / "presets" / "activations.json").read_text(encoding="utf-8")
    known: dict[str, float] = json.loads(text)
    return known


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _codec(plan: Plan, device: str, dtype: torch.dtype) -> int:
    """One chunk of frames; of a lapped transform a few copies of them."""
    g, stride = plan.geometry, plan.preset.model.latent_stride
    frame = 3 * 4 * g.padded_width * g.padded_height
    if plan.preset.model.codec != "autoencoder":
        return 6 * DECODED_FRAMES * frame
    height, width = g.padded_height, g.padded_width
    if plan.codec_tile is not None:
        height = min(height, stride * plan.codec_tile[0])
        width = min(width, stride * plan.codec_tile[1])
    encoded = height * width * stored(f"vae encode {_name(dtype)}")
    decoded = DECODED_FRAMES * height * width * stored(f"vae decode {_name(dtype)}")
    return int(CODEC_MARGIN[device] * max(encoded, decoded)) + 2 * DECODED_FRAMES * frame


def arrangements(clip: Clip, preset: Preset, options: Options, device: str) -> Iterator[Plan]:
    """Plans that need less and less; `--window` and `--tile` are kept where they are given."""
    cheapest = cheapest_window(clip, preset, options)
    if cheapest != _windows(preset, options)[0]:
        plan = make_plan(clip, preset, dataclasses.replace(options, window=cheapest))
        yield from holdings(plan, device)
    for window in _windows(preset, options):
        for tile in _tiles(clip, preset, options):
            try:
                chosen = dataclasses.replace(options, window=window, tile=tile)
                plan = make_plan(clip, preset, chosen)
            except OptionError:
                if window == _windows(preset, options)[0]:
                    raise
                return  # too short for the key frames
            yield from holdings(plan, device)


def holdings(plan: Plan, device: str) -> Iterator[Plan]:
    """The same windows and tiles of the network, with less and less on the device."""
    yield plan
    if device != "cpu":
        plan = dataclasses.replace(plan, holds_latents_on_host=True)
        yield plan
    if plan.preset.model.codec == "autoencoder" and plan.shape is None:
        for size in CODEC_TILES:
            yield dataclasses.replace(plan, codec_tile=(size, size))


def _windows(preset: Preset, options: Options) -> list[int]:
    if options.window is not None:
        return [options.window]
    shares = (int(share * preset.defaults.window) for share in WINDOW_SHARES)
    return list(dict.fromkeys(max(LEAST_WINDOW, length) for length in shares))


def _tiles(clip: Clip, preset: Preset, options: Options) -> list[tuple[int, int]]:
    if options.tile is not None:
        return [options.tile]
    geometry = make_plan(clip, preset, options).geometry
    width = min(preset.defaults.tile[0], geometry.padded_width)
    height = min(preset.defaults.tile[1], geometry.padded_height)
    smaller = [
        (max(LEAST_TILE, int(share * width)), max(LEAST_TILE, int(share * height)))
        for share in TILE_SHARES[1:]
    ]
    return [preset.defaults.tile, *dict.fromkeys(smaller)]


def fitting(
    plans: Iterator[Plan],
    options: Options,
    device: str,
    dtype: torch.dtype,
    arrangement: str | None = None,
    uses_graphs: bool = False,
) -> tuple[Plan, ...]:
    """The first that fits `options.memory` or what is free; then what to fall to if it does not.

    Those have the same scenes and windows, so that they can go on from its states. OptionError
    where a limit was given and no plan fits; without one the smallest is taken.
    arrangement: of a run that goes on; its plan is taken, whatever fits now
    uses_graphs: where they pay
    """
    possible = list(plans)
    if all(plan.arrangement != arrangement for plan in possible):
        arrangement = None  # asked for something else, which is told when states are compared
    plans = iter(possible)
    limit = memory_limit(options, device)
    refused: dict[int, Plan] = {}
    for plan in plans:
        has_graphs = uses_graphs and pays_by_graph(plan, device, dtype)
        total = need(plan, device, dtype, has_graphs).total
        if _is_taken(plan, arrangement, total <= limit):
            return (plan, *_smaller(plan, plans, device, dtype))
        refused.setdefault(total, plan)
    least = min(refused)
    if options.memory is not None:
        raise OptionError(
            f"memory={options.memory:g}: the smallest plan ({refused[least].arrangement}) needs "
            f"{math.ceil(100 * least / GB) / 100:g} GB: allow more, or take a smaller scale"
        )
    return (refused[least],)


def _is_taken(plan: Plan, arrangement: str | None, is_fitting: bool) -> bool:
    return is_fitting if arrangement is None else plan.arrangement == arrangement


def memory_limit(options: Options, device: str) -> int:
    """Bytes that a run may take: of a card, CUDA's context included, which is there already."""
    if options.memory is not None:
        return int(options.memory * GB)
    context = CONTEXT_BYTES if device == "cuda" else 0
    return int(FREE_SHARE * free_memory(device)) + context


def _smaller(chosen: Plan, rest: Iterator[Plan], device: str, dtype: torch.dtype) -> Iterator[Plan]:
    least = need(chosen, device, dtype).total
    for plan in takewhile(lambda plan: has_same_windows(plan, chosen), rest):
        found = need(plan, device, dtype).total
        if found < least:
            least = found
            yield plan


def has_same_windows(plan: Plan, other: Plan) -> bool:
    """A state of one is a state of the other, and static networks serve both."""
    return (plan.scenes, plan.shape) == (other.scenes, other.shape)


def static_arrangements(plans: Sequence[Plan], device: str) -> Iterator[Plan]:
    """Of a bundle's plans, in their order."""
    for plan in plans:
        yield from holdings(plan, device)
