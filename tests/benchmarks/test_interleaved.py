"""Workers are timed in a fair order, and one that fails does not stop the others."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import Any

from benchmarks.interleaved import Worker, WorkerError, in_turns, run_ways


class WindowStep:
    """A worker that takes no time and notes its calls; it fails at call number `last`."""

    def __init__(self, name: str, noted: list[str], last: int = 99, lacks: bool = False) -> None:
        self.name = name
        self.noted = noted
        self.left = last
        self.lacks = lacks
        self.told = {"peak_bytes": 7}

    def turn(self) -> float:
        self.noted.append(self.name)
        self.left -= 1
        if not self.left:
            raise WorkerError("OutOfMemoryError: none left", self.lacks)
        return 1.0

    def close(self) -> None:
        self.noted.append(f"-{self.name}")


def test_the_order_of_turns_changes_every_round() -> None:
    """No worker always follows the same other worker."""
    noted: list[str] = []
    workers: Any = {name: WindowStep(name, noted) for name in "abc"}

    taken = in_turns(workers, 2)

    assert "".join(noted) == "abccba"
    assert taken.seconds == {name: [1.0, 1.0] for name in "abc"}
    assert not taken.failed


def test_who_fails_has_no_more_turns() -> None:
    """A failed worker's seconds are dropped, for they have no pair; the others finish."""
    noted: list[str] = []
    workers: Any = {name: WindowStep(name, noted, last=2 if name == "b" else 99) for name in "abc"}

    taken = in_turns(workers, 3)

    assert "".join(noted) == "abccbaac"
    assert taken.seconds == {"a": [1.0] * 3, "c": [1.0] * 3}
    assert str(taken.failed["b"]) == "OutOfMemoryError: none left"


def test_who_lacked_memory_is_measured_alone() -> None:
    """It is measured after the others; a worker that failed otherwise is not tried again."""
    noted: list[str] = []
    tries = {"a": [99], "b": [1, 99], "c": [1]}

    def start(name: str) -> Any:
        return WindowStep(name, noted, last=tries[name].pop(0), lacks=name == "b")

    found = run_ways({name: partial(start, name) for name in tries}, 2)

    assert "".join(noted) == "abca-a-b-cbb-b"
    assert found["a"].seconds == found["b"].seconds == [1.0, 1.0]
    assert found["a"].row() == {"peak_bytes": 7}
    assert found["b"].row() == {"peak_bytes": 7, "alone": True}
    assert found["c"].row() == {"peak_bytes": 7, "failed": "OutOfMemoryError: none left"}


def test_a_process_that_was_killed_may_have_lacked_memory() -> None:
    """The kernel ends such processes by a signal."""
    worker = Worker.__new__(Worker)
    worker._process = subprocess.Popen(["bash", "-c", "kill -KILL $$"], stdout=subprocess.PIPE)

    assert worker._ended().lacks_memory
