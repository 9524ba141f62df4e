"""Candidates compute the same numbers, and the ways of one are compared fairly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks import candidate_attention, candidate_layers, candidate_networks
from benchmarks.layer_shapes import Setting
from benchmarks.pairs import Case, Way, difference, measure, warm_up
from benchmarks.report_tables import candidate_rows
from tests.support.models import SMALL_UNET
from venhancer.config import RELEASED, TINY, Preset

TOLERANCE = 1e-4  # relative L2, in float32
NOT_HERE = ("efficient", "cuDNN", "flash 3", "Triton", "on two streams")  # they need CUDA
SIZES = {SMALL_UNET.name: (8, 8), TINY.name: (10, 8)}


def setting(preset: Preset) -> Setting:
    """As small as the network can be shown."""
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
        yield from candidate_layers.cases(setting(preset))
        yield from candidate_attention.cases(setting(preset), [3])
    yield from candidate_networks.cases(setting(TINY))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: f"{case.candidate}-{case.layer}")
@torch.inference_mode()
def test_every_way_computes_the_same(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 no way differs from the first by more than the order of sums."""
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)  # compiling takes long
    torch.manual_seed(0)
    outputs = {name: warm_up(way) for name, way in case.make().items() if name not in NOT_HERE}
    first = next(iter(outputs.values()))

    assert len(outputs) > 1 or case.candidate == "controller and encoder"
    assert max(difference(output, first) for output in outputs.values()) <= TOLERANCE


def test_levels_have_the_sizes_of_the_network() -> None:
    """720p of the released model, whose downsamplings pad rows by two."""
    at = Setting(
        preset=RELEASED, latent=(90, 160), frames=16, codec=(8, 8), device="cpu", dtype=torch.half
    )

    assert [at.size(level) for level in range(4)] == [(90, 160), (46, 80), (24, 40), (13, 20)]
    assert at.images == 32


def fail() -> torch.Tensor:
    raise RuntimeError("no kernel for this\nand more lines")


def test_a_way_that_fails_says_why_and_the_others_go_on() -> None:
    """So does one whose output is not finite."""
    ways = {
        "was": Way(lambda: torch.ones(3)),
        "broken": Way(fail),
        "lost": Way(lambda: torch.full((3,), math.nan)),
        "is": Way(lambda: torch.ones(3) * 1.5),
    }

    found = measure(Case("candidate", "layer", lambda: ways), "cpu", rounds=2)

    was, broken, lost, now = found["rows"]
    assert broken["failed"] == "RuntimeError: no kernel for this"
    assert lost["failed"].startswith("ArithmeticError")
    assert was["difference"] == 0
    assert now["difference"] == 0.5
    assert set(now["times_faster"]) == {"median", "least", "most"}


def test_without_a_first_way_nothing_is_said_to_be_faster() -> None:
    """The others are timed all the same."""
    ways = {"was": Way(fail), "is": Way(lambda: torch.ones(3))}

    _, row = measure(Case("candidate", "layer", lambda: ways), "cpu", rounds=1)["rows"]

    assert "ms" in row
    assert "times_faster" not in row


def test_a_case_that_cannot_be_made_says_why() -> None:
    """Others go on after it."""
    found = measure(Case("candidate", "layer", lambda: {"was": Way(fail())}), "cpu", rounds=1)

    assert found["rows"] == [{"way": "all", "failed": "RuntimeError: no kernel for this"}]


def test_the_same_failure_is_told_once() -> None:
    """With the number of layers that it is of."""
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
