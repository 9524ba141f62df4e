"""A small model's sampler, on any device, for tests of the sampler."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tests.support.clips import small_preset
from venhancer.planning.capacity import capacity_for
from venhancer.planning.plan import Sampling
from venhancer.planning.windows import Scene
from venhancer.sampling.evaluation import Conditions, Model
from venhancer.sampling.latents import Latents
from venhancer.sampling.sampler import Placement, Sampler
from venhancer.spans import Span, cover

PRESET = small_preset()
GAP = 2
CPU = Placement()


def sampling(window: int, eta: float = 1.0, **fields: object) -> Sampling:
    whole = Sampling(
        solver="normal",
        steps=3,
        eta=eta,
        guidance=1.0,
        guidance_interval=(0, 999),
        reuse=1,
        seed=7,
        window=window,
        key_stride=GAP,
        rows=(Span(0, 8),),
        columns=(Span(0, 8),),
        join="blend",
    )
    return dataclasses.replace(whole, **fields)  # type: ignore[arg-type]


def scene(frames: int, window: int) -> Scene:
    return Scene(Span(0, (frames - 1) // GAP + 1), GAP, tuple(cover(frames, window, 4)))


def key_frames(frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((frames - 1) // GAP + 1, 48, 8, 8, generator=generator)


def sampler(
    model: Model, plan: Sampling, shown: Scene, placement: Placement = CPU, held_on: str = ""
) -> Sampler:
    room = capacity_for((shown,), len(plan.schedule))
    latents = Latents(room, (48, 8, 8), held_on or placement.device)
    return Sampler(model, plan, Conditions(0, 2.0), latents, placement)


def nothing() -> None:
    """Ignore progress."""


def run(
    model: Model,
    plan: Sampling,
    frames: int = 9,
    placement: Placement = CPU,
    held_on: str = "",
) -> Tensor:
    """Sample the whole scene: f c h w, on the CPU; held_on: the latents' device, if another."""
    shown = scene(frames, plan.window)
    with torch.inference_mode():
        made = sampler(model, plan, shown, placement, held_on).run(
            shown, iter(key_frames(frames)), 0, nothing
        )
        return torch.cat(list(made)).cpu()


def whole_and_resumed(
    model: Model, plan: Sampling, frames: int, cut_after: int
) -> tuple[Tensor, Tensor]:
    """Return the frames after so many window steps (f c h w): of one run, and of a resumed one."""
    shown, keys = scene(frames, plan.window), key_frames(frames)
    with torch.inference_mode():
        whole = list(sampler(model, plan, shown).run(shown, iter(keys), 0, nothing))
        first, second = (sampler(model, plan, shown) for _ in range(2))
        begun = first.run(shown, iter(keys), 0, nothing)
        for _ in range(cut_after):
            next(begun)
        second.restore({name: x.clone() for name, x in first.tensors().items()})
        left = iter(keys[second.first_key(shown, cut_after) :])
        rest = list(second.run(shown, left, cut_after, nothing))
    return torch.cat(whole[cut_after:]), torch.cat(rest)
