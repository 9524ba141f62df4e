"""The generated page says what the results files say."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import __main__ as report
from tests.benchmarks.result_parts import COMMIT, step_result


def test_the_page_is_what_the_results_say() -> None:
    """benchmarks/README.md is generated: after a change, run `python -m benchmarks.report`."""
    assert report.README.read_text(encoding="utf-8") == report.render(report.RESULTS)


def test_a_card_is_not_measured_until_there_is_a_file(tmp_path: Path) -> None:
    """A results file fills the rows of its own card and of no other."""
    (tmp_path / "denoise_step_cuda.json").write_text(
        json.dumps(step_result("NVIDIA A100-SXM4-80GB"))
    )
    [section] = [part for part in report.render(tmp_path).split("\n## ") if "x_0" in part]

    assert "| NVIDIA A100-SXM4-80GB | released, 1280x720 x 32 | 516 | graph |" in section
    assert "OutOfMemoryError: none left" in section
    assert "| A100 |" not in section
    assert "| H200 | not measured |" in section
    assert f"commit {COMMIT[:10]}, 2026-01-01" in section
