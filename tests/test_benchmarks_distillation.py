"""The measurement of a student: what counts as keeping up, and what is told of it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.distillation import FEW, MANY, RUNS, Row, Run, line, middle, summary
from benchmarks.report_tables import distillation_rows


def made_clip(loss: float, lpips_loss: float) -> dict[Run, Row]:
    """The student loses this much; the teacher nothing."""
    found: dict[Run, Row] = {}
    for who, steps in RUNS:
        lost, worse = (loss, lpips_loss) if who == "student" else (0.0, 0.0)
        found[who, steps] = {"psnr_even": 30 - lost, "psnr_odd": 28, "lpips": 0.2 + worse}
        if (who, steps) != ("teacher", MANY):
            found[who, steps]["psnr_teacher"] = 40.0
    return found


@pytest.mark.parametrize(
    ("loss", "lpips_loss", "keeps_up"),
    [(0.2, 0.005, True), (-1.0, -0.1, True), (0.4, 0.0, False), (0.0, 0.02, False)],
)
def test_keeping_up_is_by_both_measures(loss: float, lpips_loss: float, keeps_up: bool) -> None:
    """By the mean over the clips; being better is no failure."""
    rows = summary([made_clip(loss, lpips_loss), made_clip(loss, lpips_loss)])

    assert [row["keeps_up"] for row in rows] == [True] * 4 + [keeps_up] * 3
    assert rows[-1]["loses_even"] == pytest.approx(loss)
    assert ("NOT" in line(rows[-1])) != keeps_up


def test_the_table_has_a_row_for_each_run() -> None:
    """Teacher and student at the same numbers of evaluations, after the reference."""
    rows = list(distillation_rows({"rows": summary([made_clip(0.1, 0.001)])}))

    assert [row[:2] for row in rows] == [
        ("teacher", str(MANY)),
        *((who, str(n)) for who in ("teacher", "student") for n in FEW),
    ]
    assert rows[4] == (
        *("student", "4", "29.90", "28.00", "0.2010", "0.10", "0.00", "0.0010", "40.0", "yes"),
    )


def test_large_clips_are_cut_to_their_middle() -> None:
    """Nine frames; what is smaller stays as it is in that direction."""
    frames = np.zeros((17, 400, 600, 3), dtype=np.uint8)
    frames[:, 20:380] = 1

    cut = middle(frames)

    assert cut.shape == (9, 360, 600, 3)
    assert cut.all()
