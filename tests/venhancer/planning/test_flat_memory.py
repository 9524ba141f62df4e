"""Memory of the built-in model: the cost of its neighbours, and windows of a few frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.clips import described_clip
from tests.support.models import SMALL_UNET
from venhancer.config import NANO, Preset
from venhancer.model.denoiser import make_denoiser
from venhancer.motion.neighbours import Aligner, Key
from venhancer.options import Options
from venhancer.pipeline.pixels import resize
from venhancer.planning.fitting import arrangements
from venhancer.planning.memory import _aligner, _buffers, _together, need
from venhancer.planning.plan import Plan, make_plan
from venhancer.sampling.evaluation import Conditions, Evaluation
from venhancer.sampling.latents import Latents

FLOAT = torch.float32


def planned(preset: Preset = NANO, frames: int = 9) -> Plan:
    """Plan a clip of 48x32 at twice the size, without new frames."""
    return make_plan(described_clip(frames), preset, Options(scale=2.0))


def test_the_host_holds_what_is_counted_for_neighbours() -> None:
    """The predicted bytes are those of key frames, half-size copies, flows and waiting latents."""
    plan = planned()
    count, (channels, rows, columns) = NANO.model.neighbours, plan.latents
    aligner = Aligner(count, plan.geometry)
    for number in range(9):
        frame = np.full((32, 48, 3), number, np.uint8)
        aligner.add(number, Key.of(frame, resize(frame, 96, 64)))
        if number >= count // 2:
            aligner.hint(number - count // 2)

    keys = sum(key.frame.nbytes + key.half.nbytes for key in aligner.keys.values())
    flows = sum(flow.nbytes for flow in aligner.flows.values())
    waiting = 4 * (count // 2 + 1) * channels * rows * columns
    assert _aligner(plan) == keys + flows + waiting


@pytest.mark.parametrize("preset", [NANO, SMALL_UNET], ids=lambda preset: preset.name)
def test_buffers_are_as_large_as_is_counted(preset: Preset) -> None:
    """Predicted are an evaluation's buffers and four windows, with and without neighbours."""
    plan = planned(preset)
    sampling, model = plan.sampling, make_denoiser(preset.model)
    conditions = Conditions(plan.refine, plan.conditioning_scale)
    made = Evaluation(model, sampling, conditions, None, sampling.window, "cpu")

    own = sum(x.nbytes for x in (made.latents, made.shown, made.x0))
    window = 4 * sampling.window * int(np.prod(plan.latents))
    assert _buffers(plan, FLOAT) == own + 4 * window


def test_key_frames_are_held_with_their_neighbours() -> None:
    """The latents with neighbours take the predicted bytes."""
    plan = planned()
    made = Latents(plan.capacity, plan.latents, "cpu", NANO.model.neighbour_channels)

    held = sum(x.nbytes for x in (*made.tensors().values(), made.keys))
    assert plan.latent_bytes == held


def test_only_a_host_aligns() -> None:
    """The aligner's memory counts for the host and not for a card."""
    plan = planned()
    working = {device: need(plan, device, FLOAT).working for device in ("cpu", "cuda")}
    parts = {device: _together(plan, device, FLOAT, has_graphs=False) for device in working}

    left = {device: working[device] - parts[device] - _buffers(plan, FLOAT) for device in working}
    assert left == {"cpu": _aligner(plan), "cuda": 0}


def test_a_window_of_three_frames_falls_to_two() -> None:
    """It has no other fallback: a quarter of three frames would be an empty window."""
    plans = arrangements(described_clip(9), NANO, Options(scale=2.0), "cpu")

    assert sorted({plan.sampling.window for plan in plans}) == [2, 3]
