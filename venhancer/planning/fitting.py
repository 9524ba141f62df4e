"""Plans that fit the memory: the largest one first, then those to fall back to.

Fitting gives up nothing at first (latents in the host's memory), then the codec goes in tiles, then
the network's tiles get smaller, and windows last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch

from venhancer.config import Preset
from venhancer.device import free_memory
from venhancer.errors import OptionError
from venhancer.options import GB, Options
from venhancer.planning.memory import CONTEXT_BYTES, need, pays_by_graph
from venhancer.planning.plan import Arrangement, Plan, cheapest_window, make_plan
from venhancer.video.probe import Clip

FREE_SHARE = 0.9  # of what is free, taken where no limit is given
WINDOW_SHARES = (1.0, 0.75, 0.5, 0.25)  # of the preset's window
LEAST_WINDOW = 2  # frames: as `Options.window` has it
TILE_SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)  # of the preset's tile, or of the frame if that is less
LEAST_TILE = 96  # pixels
CODEC_TILES = (64, 32)  # rows and columns of latents


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
    if plan.preset.model.has_learned_codec and plan.shape is None:
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
    arrangement: Arrangement | None = None,
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
            return (plan, *_fallbacks(plan, plans, device, dtype))
        refused.setdefault(total, plan)
    least = min(refused)
    if options.memory is not None:
        words = refused[least].arrangement.words
        raise OptionError(
            f"memory={options.memory:g}: the smallest plan ({words}) needs "
            f"{math.ceil(100 * least / GB) / 100:g} GB: allow more, or take a smaller scale"
        )
    return (refused[least],)


def _is_taken(plan: Plan, arrangement: Arrangement | None, is_fitting: bool) -> bool:
    return is_fitting if arrangement is None else plan.arrangement == arrangement


def memory_limit(options: Options, device: str) -> int:
    """Bytes that a run may take: of a card, CUDA's context included, which is there already."""
    if options.memory is not None:
        return int(options.memory * GB)
    context = CONTEXT_BYTES if device == "cuda" else 0
    return int(FREE_SHARE * free_memory(device)) + context


def _fallbacks(
    chosen: Plan, rest: Iterator[Plan], device: str, dtype: torch.dtype
) -> Iterator[Plan]:
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
