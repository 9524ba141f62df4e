"""Candidates for speed-ups compute the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.questions import layers, networks
from benchmarks.questions.layers import Setting
from benchmarks.questions.pairs import Case, difference, warm_up
from benchmarks.report.tables import candidate_rows
from tests.support.models import SMALL_UNET
from venhancer.config import RELEASED, TINY, Preset

TOLERANCE = 1e-4  # relative L2, in float32
NOT_HERE = ("efficient", "cuDNN", "flash 3", "Triton", "on two streams")  # they need CUDA
SIZES = {SMALL_UNET.name: (8, 8), TINY.name: (10, 8)}


def setting(preset: Preset) -> Setting:
    """Make the smallest setting that the network takes."""
    return Setting(
        preset=preset,
        latent=SIZES[preset.name],
        frames=3,
        codec=(16, 16),
        device="cpu",
        dtype=torch.float32,
    )


def cases() -> Iterator[Case]:
    for preset in (SMALL_UNET, TINY):
        yield from layers.layer_cases(setting(preset))
        yield from layers.attention_cases(setting(preset), [3])
    yield from networks.cases(setting(TINY))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: f"{case.candidate}-{case.layer}")
@torch.inference_mode()
def test_every_way_computes_the_same(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 no candidate differs from the first by more than rounding."""
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)  # compiling takes long
    torch.manual_seed(0)
    outputs = {name: warm_up(way) for name, way in case.make().items() if name not in NOT_HERE}
    first = next(iter(outputs.values()))

    assert len(outputs) > 1 or case.candidate == "controller and encoder"
    assert max(difference(output, first) for output in outputs.values()) <= TOLERANCE


def test_levels_have_the_sizes_of_the_network() -> None:
    """The sizes are those of the released model at 720p, whose downsamplings pad rows by two."""
    at = Setting(
        preset=RELEASED, latent=(90, 160), frames=16, codec=(8, 8), device="cpu", dtype=torch.half
    )

    assert [at.size(level) for level in range(4)] == [(90, 160), (46, 80), (24, 40), (13, 20)]
    assert at.images == 32


def test_the_same_failure_is_told_once() -> None:
    """The same failure is reported once, with the number of layers that had it."""
    spread = {"median": 2.0, "least": 1.0, "most": 3.0}
    rows = [
        {"way": "was", "ms": spread, "times_faster": spread, "difference": 0.0},
        {"way": "broken", "failed": "RuntimeError: no kernel"},
    ]
    case = {"candidate": "norm", "model": "tiny", "rows": rows}
    result: dict[str, Any] = {
        "dtype": "bfloat16",
        "cases": [{**case, "layer": "one"}, {**case, "layer": "two"}],
    }

    told = list(candidate_rows(result))

    assert [row[1] for row in told] == ["tiny: one", "tiny: two", "2 layers"]
    assert told[-1][3:5] == ("broken", "RuntimeError: no kernel")
