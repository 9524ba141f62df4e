"""The terminal output of `denoise_step`."""

from __future__ import annotations

from benchmarks.speed.denoise_step import table
from tests.benchmarks.result_parts import step_result


def test_the_terminal_shows_every_variant() -> None:
    """Every variant has its figures, or the reason why there are none."""
    [case] = step_result("NVIDIA H200")["cases"]
    shown = table(case)

    assert "1.25 s" in shown
    assert "52.0 % of the ceiling" in shown
    assert "OutOfMemoryError" in shown
