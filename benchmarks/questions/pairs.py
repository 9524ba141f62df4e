"""Alternative ways to do the same work, on the same inputs in one process, timed in alternation.

The first way is the present one. The speed-up of each other way is computed from pairs of rounds,
and its error is relative (L2) to the first one's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.interleaved import in_turns, make_room, reason
from benchmarks.measuring import seconds_of, spread

TURN = 0.05  # seconds: shorter work is repeated until it takes as long
WARM_UPS = 2
Output = Tensor | Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Way:
    """Some work, and the context manager that is active while it is done."""

    run: Callable[[], Output]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


Ways = Mapping[str, Way]


@dataclass(frozen=True, slots=True)
class Case:
    """One candidate at one layer; `make` allocates the inputs that its ways share."""

    candidate: str
    layer: str
    make: Callable[[], Ways]


class Timed:
    """A way that has already run once, and its repetitions per round."""

    def __init__(self, way: Way, device: str) -> None:
        self._way, self._device, self._times = way, device, 1
        self._times = math.ceil(TURN / self.turn())

    def turn(self) -> float:
        """Repeat the work -> the seconds of one repetition."""
        return seconds_of(self._repeat, self._device) / self._times

    def _repeat(self) -> None:
        with self._way.around():
            for _ in range(self._times):
                self._way.run()


def warm_up(way: Way) -> Sequence[Tensor]:
    """Run a way until it is warm and return its output."""
    with way.around():
        for _ in range(WARM_UPS):
            output = way.run()
    return [output] if isinstance(output, Tensor) else output


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Compute the relative L2 error over all tensors; ArithmeticError if it is not a number."""
    pairs = zip(found, wanted, strict=True)
    away = sum(float((a.float() - b.float()).norm()) ** 2 for a, b in pairs)
    size = sum(float(b.float().norm()) ** 2 for b in wanted)
    if not (math.isfinite(away) and size > 0):
        raise ArithmeticError("an output is not finite, or the first way's is zero")
    return float(f"{math.sqrt(away / size):.3g}")


def prepare(case: Case, device: str) -> tuple[list[dict[str, Any]], dict[str, Timed]]:
    """Make a row for each way, and list those that can be timed; one that fails says why."""
    try:
        ways = case.make()
    except Exception as error:  # of any kind: other cases go on
        return [{"way": "all", "failed": reason(error)}], {}
    rows: list[dict[str, Any]] = []
    timed: dict[str, Timed] = {}
    first: Sequence[Tensor] = ()
    for name, way in ways.items():
        rows.append({"way": name})
        try:
            output = warm_up(way)
            first = first or output
            rows[-1]["difference"] = difference(output, first)
            timed[name] = Timed(way, device)
        except Exception as error:  # of any kind: other ways go on
            rows[-1]["failed"] = reason(error)
        make_room(device)
    return rows, timed


def fill(rows: list[dict[str, Any]], seconds: Mapping[str, Sequence[float]]) -> None:
    """Add milliseconds, and the speed-up over the first row if both ran."""
    before = seconds.get(rows[0]["way"], ())
    for row in rows:
        taken = seconds.get(row["way"], ())
        if taken:
            row["ms"] = spread([1000 * s for s in taken])
        if taken and before:
            row["times_faster"] = spread([b / a for b, a in zip(before, taken, strict=True)])


@torch.inference_mode()
def measure(case: Case, device: str, rounds: int) -> dict[str, Any]:
    """Time every way of a case in alternation."""
    rows, timed = prepare(case, device)
    taken = in_turns(timed, rounds)
    for row in rows:
        if row["way"] in taken.failed:
            row["failed"] = reason(taken.failed[row["way"]])
    fill(rows, taken.seconds)
    return {"candidate": case.candidate, "layer": case.layer, "rows": rows}
