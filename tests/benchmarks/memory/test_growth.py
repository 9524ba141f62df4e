"""The memory of a short run and of a long one."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.memory import __main__ as memory


def test_a_run_on_a_card_has_the_peak_of_the_card() -> None:
    """The memory of the process counts only if no card did the work."""
    assert memory.peak({"peak_bytes": 5, "device_bytes": 9}) == 9
    assert memory.peak({"peak_bytes": 5}) == 5
    assert memory.card_peak("cpu") == {}


def test_a_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run gives the last line of its errors; runs of other lengths go on."""
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nOutOfMemoryError: none left\n")
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: failed)

    run = memory.measure(60, None, "cuda")

    assert run == {"failed": "OutOfMemoryError: none left"}
    assert memory.line(run) == "OutOfMemoryError: none left"
