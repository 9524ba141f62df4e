"""The ways of one candidate are compared fairly, in one process."""

from __future__ import annotations

import math
import time

import torch

from benchmarks.questions import pairs
from benchmarks.questions.pairs import Case, Way, measure


def fail() -> torch.Tensor:
    raise RuntimeError("no kernel for this\nand more lines")


def test_a_way_that_fails_says_why_and_the_others_go_on() -> None:
    """A way that raises, or whose output is not finite, has its reason; the others are timed."""
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
    """The reason is recorded, and other cases go on after it."""
    found = measure(Case("candidate", "layer", lambda: {"was": Way(fail())}), "cpu", rounds=1)

    assert found["rows"] == [{"way": "all", "failed": "RuntimeError: no kernel for this"}]


def test_a_way_that_fails_in_its_turn_says_so_in_its_row() -> None:
    """A way that fails while it is timed has its reason; the first way keeps its milliseconds."""
    calls: list[int] = []

    def fail_late() -> torch.Tensor:
        calls.append(1)
        if len(calls) > pairs.WARM_UPS + 1:
            raise RuntimeError("no memory\nand more")
        time.sleep(pairs.TURN)
        return torch.ones(2)

    def make() -> pairs.Ways:
        return {"first": pairs.Way(lambda: torch.ones(2)), "late": pairs.Way(fail_late)}

    first, late = pairs.measure(pairs.Case("candidate", "layer", make), "cpu", 2)["rows"]

    assert first["ms"]["median"] > 0
    assert late["failed"] == "RuntimeError: no memory"
    assert "ms" not in late
