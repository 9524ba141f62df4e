"""Ways to do the same work, on the same inputs in one process, timed in turns.

The first is what the others would replace: how many times faster is by pairs of turns, and the
difference of the outputs is relative (L2) to its own.
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
    """Some work, and the setting that holds while it is done."""

    run: Callable[[], Output]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


Ways = Mapping[str, Way]


@dataclass(frozen=True, slots=True)
class Case:
    """One candidate at one layer; `make` allocates what its ways share."""

    candidate: str
    layer: str
    make: Callable[[], Ways]


class Timed:
    """A way that has run before, and how often a turn does it."""

    def __init__(self, way: Way, device: str) -> None:
        self._way, self._device, self._times = way, device, 1
        self._times = math.ceil(TURN / self.turn())

    def turn(self) -> float:
        """Seconds of the work, done once."""
        return seconds_of(self._repeat, self._device) / self._times

    def _repeat(self) -> None:
        with self._way.around():
            for _ in range(self._times):
                self._way.run()


def warm_up(way: Way) -> Sequence[Tensor]:
    """What it gives."""
    with way.around():
        for _ in range(WARM_UPS):
            output = way.run()
    return [output] if isinstance(output, Tensor) else output


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Relative L2, over all tensors; ArithmeticError where it is not a number."""
    pairs = zip(found, wanted, strict=True)
    away = sum(float((a.float() - b.float()).norm()) ** 2 for a, b in pairs)
    size = sum(float(b.float().norm()) ** 2 for b in wanted)
    if not (math.isfinite(away) and size > 0):
        raise ArithmeticError("an output is not finite, or the first way's is zero")
    return float(f"{math.sqrt(away / size):.3g}")


def prepare(case: Case, device: str) -> tuple[list[dict[str, Any]], dict[str, Timed]]:
    """A row for each way, and those that can be timed; one that fails says why."""
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
    """Milliseconds, and how many times faster than the first row each is, where both ran."""
    before = seconds.get(rows[0]["way"], ())
    for row in rows:
        taken = seconds.get(row["way"], ())
        if taken:
            row["ms"] = spread([1000 * s for s in taken])
        if taken and before:
            row["times_faster"] = spread([b / a for b, a in zip(before, taken, strict=True)])


@torch.inference_mode()
def measure(case: Case, device: str, rounds: int) -> dict[str, Any]:
    """Every way of a case, in turns."""
    rows, timed = prepare(case, device)
    taken = in_turns(timed, rounds)
    for row in rows:
        if row["way"] in taken.failed:
            row["failed"] = reason(taken.failed[row["way"]])
    fill(rows, taken.seconds)
    return {"candidate": case.candidate, "layer": case.layer, "rows": rows}
