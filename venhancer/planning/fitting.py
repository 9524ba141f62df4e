"""Plans that fit the memory: the largest one first, then its fallback plans.

Memory is saved in this order: latents in the host's memory, which costs no quality; the codec in
tiles; smaller tiles of the network; shorter windows.
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
from venhancer.video.clip import Clip

FREE_SHARE = 0.9  # of the free memory, taken where no limit is given
WINDOW_SHARES = (1.0, 0.75, 0.5, 0.25)  # of the preset's window
LEAST_WINDOW = 2  # frames, as in the range of `Options.window`
TILE_SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)  # of the preset's tile, or of a smaller frame
LEAST_TILE = 96  # pixels
CODEC_TILES = (64, 32)  # rows and columns of latents


def arrangements(clip: Clip, preset: Preset, options: Options, device: str) -> Iterator[Plan]:
    """Yield plans that need less and less memory; a given `--window` or `--tile` is kept."""
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
                return  # too short for two key frames
            yield from holdings(plan, device)


def holdings(plan: Plan, device: str) -> Iterator[Plan]:
    """Yield plans of the same windows and tiles, with less and less on the device."""
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
    limits: Limits | None = None,
) -> tuple[Plan, ...]:
    """Choose the first plan that fits `options.memory` or the free memory, then its fallback plans.

    Fallback plans have the same scenes and windows, so they can go on from its states. OptionError
    if a limit was given and no plan fits; without a limit the smallest plan is taken.
    arrangement: of a run that is resumed; its plan is taken, even if it does not fit now
    uses_graphs: use CUDA graphs where they pay off
    """
    possible = list(plans)
    if all(plan.arrangement != arrangement for plan in possible):
        arrangement = None  # other options were asked for; the journal reports that
    plans = iter(possible)
    limit = (limits or Limits()).limit(options, device)
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


class Limits:
    """Memory that runs of one process may take, looked up once for each device.

    Networks that stay loaded reduce the free memory. If it were looked up again, the same clip
    would get another plan the second time, and so other frames.
    """

    def __init__(self) -> None:
        self._found: dict[str, int] = {}

    def limit(self, options: Options, device: str) -> int:
        """Compute the bytes that a run may take; CUDA's context, already allocated, is included."""
        if options.memory is not None:
            return int(options.memory * GB)
        if device not in self._found:
            context = CONTEXT_BYTES if device == "cuda" else 0
            self._found[device] = int(FREE_SHARE * free_memory(device)) + context
        return self._found[device]


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
    """True if each plan can go on from the other's states, with the same static networks."""
    return (plan.scenes, plan.shape) == (other.scenes, other.shape)


def static_arrangements(plans: Sequence[Plan], device: str) -> Iterator[Plan]:
    """Yield the `holdings` of each of a bundle's plans, in their order."""
    for plan in plans:
        yield from holdings(plan, device)
