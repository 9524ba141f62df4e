"""Memory plans: the prediction, the choice of a plan that fits, and the order of choices."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files

import pytest
import torch

from tests.support.clips import described_clip
from venhancer.config import NANO, PRESETS, RELEASED
from venhancer.contract import DECODED_FRAMES
from venhancer.errors import OptionError
from venhancer.options import Options
from venhancer.planning.activations import codec_bytes, codec_weight_bytes, text_weight_bytes
from venhancer.planning.cost import weight_bytes
from venhancer.planning.fitting import arrangements, fitting
from venhancer.planning.memory import denoiser_bytes_per_voxel, need
from venhancer.planning.plan import Plan

HALF = torch.float16
CLIP = described_clip(60, 640, 360)


def chosen(memory: float, device: str = "cuda", **options: object) -> tuple[Plan, ...]:
    """Choose plans of the released model at twice the size."""
    asked = Options(scale=2, memory=memory, **options)  # type: ignore[arg-type]
    return fitting(arrangements(CLIP, RELEASED, asked, device), asked, device, HALF)


def test_what_is_stored_is_what_is_counted() -> None:
    """Stored sizes equal counted ones for every preset, precision, branch count and companion."""
    known = json.loads((files("venhancer") / "presets" / "activations.json").read_text())
    counted = {}
    for dtype in (torch.float32, torch.float16):
        name = str(dtype).removeprefix("torch.")
        for preset in ("nano", "released"):
            model = PRESETS[preset].model
            counted[f"{preset} weights {name}"] = weight_bytes(model, dtype)
            for branches in (1, 2) if model.unet.text_width else (1,):
                counted[f"{preset} {name} {branches}"] = round(
                    denoiser_bytes_per_voxel(model, dtype, branches)
                )
        pixels = 256 * 256
        one = codec_bytes(dtype, frames=1, height=256, width=256)
        three = codec_bytes(dtype, frames=DECODED_FRAMES, height=256, width=256)
        counted[f"vae encode {name}"] = round(one.encode / pixels)
        counted[f"vae decode {name}"] = round(three.decode / pixels / DECODED_FRAMES)
        counted[f"vae weights {name}"] = codec_weight_bytes(dtype)
        counted[f"text weights {name}"] = text_weight_bytes(dtype)

    for name, size in list(counted.items()):
        counted[name.replace("float16", "bfloat16")] = size  # the same size
    assert known == pytest.approx(counted, rel=0.01), json.dumps(counted, indent=1)


def test_a_large_card_gives_up_nothing() -> None:
    """Tiles and codec are the preset's, and latents are on the card."""
    [plan, *_] = chosen(80)

    assert plan.sampling.window == 26  # four windows of 26 frames, not five of 25
    assert (len(plan.sampling.rows), len(plan.sampling.columns)) == (1, 1)
    assert plan.codec_tile is None
    assert not plan.holds_latents_on_host


@pytest.mark.parametrize(
    ("frames", "window"),
    [
        (15, 29),  # one window in place of two
        (13, 25),
        (20, 25),  # two windows of 25 are 50 frames, of 33 they would be 66
    ],
)
def test_the_window_that_evaluates_the_fewest_frames_is_taken(frames: int, window: int) -> None:
    """It has up to 33 frames if memory allows, else the usual number before tiles get smaller."""
    clip = described_clip(frames, 640, 360)
    options = Options(scale=2, interpolate=2, memory=80)

    def first(options: Options) -> Plan:
        plans = arrangements(clip, RELEASED, options, "cuda")
        return fitting(plans, options, "cuda", HALF)[0]

    assert first(options).sampling.window == window
    assert first(dataclasses.replace(options, window=17)).sampling.window == 17
    assert first(dataclasses.replace(options, memory=24)).sampling.window <= 25


def test_less_and_less_memory_takes_smaller_and_smaller_plans() -> None:
    """Free measures go first, then tiles, then windows; each plan fits."""
    taken = []
    for memory in (80, 24, 16, 12, 8, 7):
        plan = chosen(memory)[0]
        assert need(plan, "cuda", HALF).total <= memory * 1e9
        width, height = plan.tile
        taken.append((plan.sampling.window, width * height))

    assert taken == sorted(taken, reverse=True)
    assert len(set(taken)) >= 4


def test_a_window_or_tile_that_was_asked_for_stays() -> None:
    """Only the other values are chosen."""
    plan = chosen(9, window=17, tile=(512, 320))[0]

    assert plan.sampling.window == 17
    assert plan.tile == (512, 336)


def test_too_little_is_refused_with_what_is_needed() -> None:
    """The error is one line."""
    with pytest.raises(OptionError, match=r"memory=3: the smallest plan \(windows of .* needs \d"):
        chosen(3)


def test_the_plans_to_fall_back_to_keep_the_windows() -> None:
    """Each plan needs less than the one before; all have the same windows, so that states fit."""
    plan, *smaller = chosen(24)
    needs = [need(p, "cuda", HALF).total for p in (plan, *smaller)]

    assert smaller
    assert needs == sorted(set(needs), reverse=True)
    assert {p.scenes for p in smaller} == {plan.scenes}
    assert any(p.holds_latents_on_host for p in smaller)


def test_a_run_that_goes_on_takes_the_plan_it_had() -> None:
    """The plan does not depend on the memory that is free now."""
    begun = chosen(9)[0]
    asked = Options(scale=2, memory=80)
    plans = arrangements(CLIP, RELEASED, asked, "cuda")

    again = fitting(plans, asked, "cuda", HALF, begun.arrangement)[0]

    assert dataclasses.replace(again) == begun


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_long_clip_needs_no_more_than_a_short_one(device: str) -> None:
    """Ten minutes need as much as ten seconds, on the device and in latents."""
    needs = []
    for frames in (240, 14400):
        asked = Options(scale=2, memory=80)
        plans = arrangements(described_clip(frames, 640, 360), NANO, asked, device)
        needs.append(need(fitting(plans, asked, device, HALF)[0], device, HALF))

    assert needs[1].total <= 1.05 * needs[0].total
