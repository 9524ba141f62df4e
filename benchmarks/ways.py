"""Ways to do the same work, each in a process of its own, timed in turns and told one by one.

A way that fails is dropped, and says why. One that lacked memory beside the others is tried again
when they have ended, alone: its seconds then belong to no pair of turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.turns import Worker, WorkerError, in_turns, reason

Start = Callable[[], Worker]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One way: what its process told, and its seconds or the error that ended it."""

    told: Mapping[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    error: Exception | None = None
    is_alone: bool = False

    @property
    def lacked_memory(self) -> bool:
        return isinstance(self.error, WorkerError) and self.error.lacks_memory

    def row(self) -> dict[str, Any]:
        """The part of a result that all measurements have in common."""
        alone = {"alone": True} if self.is_alone else {}
        failed = {} if self.error is None else {"failed": reason(self.error)}
        return {**self.told, **alone, **failed}


def run_ways(starts: Mapping[str, Start], rounds: int) -> dict[str, Outcome]:
    """Start every way, then let them take turns; the outcomes are in the order of `starts`."""
    found = run_together(starts, rounds)
    if len(starts) == 1:
        return found
    return {
        name: run_alone(starts[name], rounds) if outcome.lacked_memory else outcome
        for name, outcome in found.items()
    }


def run_together(starts: Mapping[str, Start], rounds: int) -> dict[str, Outcome]:
    """All of them beside each other; every process has ended when this returns."""
    workers: dict[str, Worker] = {}
    errors: dict[str, Exception] = {}
    for name, start in starts.items():
        try:
            workers[name] = start()
        except WorkerError as error:
            errors[name] = error
    taken = in_turns(workers, rounds)
    for worker in workers.values():
        worker.close()
    errors |= taken.failed
    return {
        name: Outcome(
            told=workers[name].told if name in workers else {},
            seconds=taken.seconds.get(name, []),
            error=errors.get(name),
        )
        for name in starts
    }


def run_alone(start: Start, rounds: int) -> Outcome:
    """One way with all the memory to itself."""
    [found] = run_together({"alone": start}, rounds).values()
    return Outcome(told=found.told, seconds=found.seconds, error=found.error, is_alone=True)
