"""What `denoise_step` shows at the terminal."""

from __future__ import annotations

from benchmarks.speed.denoise_step import table
from tests.benchmarks.result_parts import step_result


def test_the_terminal_shows_every_variant() -> None:
    """Its figures, or why there are none."""
    [case] = step_result("NVIDIA H200")["cases"]
    shown = table(case)

    assert "1.25 s" in shown
    assert "52.0 % of the ceiling" in shown
    assert "OutOfMemoryError" in shown
