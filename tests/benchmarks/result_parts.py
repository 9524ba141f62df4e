"""A results file of one variant, for tests of tables."""

from __future__ import annotations

from typing import Any

COMMIT = 40 * "a"


def step_result(card: str) -> dict[str, Any]:
    """Make a results file of `denoise_step`, of one variant."""
    row = {
        "variant": "graph",
        "dtype": "float16",
        "seconds": {"median": 1.25, "least": 1.2, "most": 1.3},
        "ceiling_share": 0.52,
        "times_faster": 2.5,
        "peak_bytes": 21_500_000_000,
        "relative_error": 0.0011,
    }
    failed = {"variant": "compiled", "dtype": "float16", "failed": "OutOfMemoryError: none left"}
    cases = [{"size": "1280x720", "window": 32, "flop": 516e12, "rows": [row, failed]}]
    return {
        "benchmark": "benchmarks.speed.denoise_step",
        "command": "python -m benchmarks.speed.denoise_step",
        "commit": COMMIT,
        "date": "2026-01-01",
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "a processor", "cores": 16},
        "device": {"name": card},
        "preset": "released",
        "cases": cases,
    }
