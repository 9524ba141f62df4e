"""Repair of flawed frames: the inputs, the comparison with the truth, and the report."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import repair
from benchmarks.quality.clips import compressed, noisy
from benchmarks.quality.methods import bicubic_repeat
from benchmarks.quality.metrics import Frames, psnr
from benchmarks.report import __main__ as report
from benchmarks.report.quality_tables import FIDELITY
from tests.benchmarks.result_parts import step_result
from tests.support.clips import moving_frames

RATE = Fraction(24)


def small_frames() -> Frames:
    """Make nine frames of 32x24."""
    return np.stack(moving_frames(9, 32, 24))


def lpips(made: Frames, true: Frames) -> float:
    return 1 / psnr(made, true)


def test_noise_is_always_the_same() -> None:
    """The noise has ten grey levels, differs from frame to frame, and is the same in every run."""
    grey = np.full((3, 64, 64, 3), 128, np.uint8)

    made = noisy(grey)

    assert (made == noisy(grey)).all()
    assert (made.astype(float) - grey).std() == pytest.approx(10, abs=0.3)
    assert (made[0] != made[1]).any()


def test_compression_keeps_frames_and_loses_detail() -> None:
    """Number and size of frames stay; a coarser quality is further from the input."""
    low = small_frames()

    near, far = (compressed(low, Fraction(12), crf) for crf in (4, 36))

    assert near.shape == far.shape == low.shape
    assert psnr(near[4], low[4]) > psnr(far[4], low[4]) + 3


# --- measuring ----------------------------------------------------------------------------------


def blurring(low: Frames, refine: int) -> Frames:
    """Enhance by averaging over time, as much as `refine` asks; the key frames stand still."""
    steady = np.broadcast_to(low.mean(axis=0), low.shape)
    share = min(1.0, refine / 100)
    mixed = (1 - share) * low + share * steady
    return bicubic_repeat(np.rint(mixed).astype(np.uint8), 4, 1)


@pytest.fixture
def measured() -> tuple[Any, Any, Frames]:
    """Measure a picture that stands still -> rows, frames and the true frames."""
    still = np.stack(moving_frames(1, 256, 192) * 17)
    return (*repair.measure_clip(still, RATE, blurring, blurring, lpips), still)


def test_every_input_and_level_is_measured(measured: tuple[Any, Any, Frames]) -> None:
    """Every kind of input runs at each level and by bicubic, which here equals refine 0."""
    rows, made, _ = measured

    assert [*rows] == ["clean", "noise", "h264"]
    assert [*rows["noise"]] == ["bicubic", "refine 0", "refine 50", "refine 100", "refine 200"]
    assert rows["noise"]["bicubic"] == rows["noise"]["refine 0"]
    assert rows["noise"]["refine 100"]["psnr"] > rows["noise"]["refine 0"]["psnr"] + 1
    assert made["h264"]["refine 100"].shape == (9, 192, 256, 3)
    assert rows["clean"][repair.OTHER] == rows["clean"]["refine 0"]


def row(best: float, other: float) -> dict[str, dict[str, float]]:
    return {
        "refine 100": {"psnr": best, "lpips": 1 / best},
        "refine 0": {"psnr": other, "lpips": 1 / other},
        "bicubic": {"psnr": 20.0, "lpips": 1 / 20},
    }


@pytest.mark.parametrize(
    ("best", "other", "expected"), [(25, 24, True), (24, 24, False), (19, 18, False)]
)
def test_repaired_is_closer_in_both(best: float, other: float, expected: bool) -> None:
    """Repaired means closer than refine 0 and bicubic in both figures; equal is not closer."""
    rows = row(best, other)

    assert repair.is_repaired(rows) == expected
    rows["refine 100"]["lpips"] = 1.0
    assert not repair.is_repaired(rows)


def test_the_loss_on_clean_input_is_judged() -> None:
    """The loss may be 0.1 dB against the model trained without flaws, on every clip."""
    clips = {
        name: {
            "noise": row(25, 24),
            "h264": row(23, 24),
            "clean": {"refine 0": {"psnr": 30 - loss}, repair.OTHER: {"psnr": 30.0}},
        }
        for name, loss in (("a", 0.05), ("b", 0.2))
    }

    found = repair.judge(clips)
    lines = [*repair.verdict_lines(found)]

    assert found["noise"] == {"reached": True, "clips": {"a": True, "b": True}}
    assert not found["h264"]["reached"]
    assert found["clean"]["clips"] == {"a": True, "b": False}
    assert lines[0].endswith("in PSNR and LPIPS: a reached, b reached; reached")
    assert lines[2].endswith("a +0.050 dB reached, b +0.200 dB NOT reached; NOT reached")
    for clip in clips.values():
        del clip["clean"][repair.OTHER]
    assert "clean" not in repair.judge(clips)


def test_the_sheet_is_small_and_shows_the_truth(
    measured: tuple[Any, Any, Frames], tmp_path: Path
) -> None:
    """Each flaw has a row: input, refine 0, refine 100, truth; the file's size is limited."""
    _, made, truth = measured
    rows = [repair.panels("city", flaw, made[flaw], truth[::2]) for flaw in ("noise", "h264")]
    assert [*rows[0]] == [
        "city, noise: input, bicubic",
        "city, noise: refine 0",
        "city, noise: refine 100",
        "city, noise: truth",
    ]

    repair.save_rows(tmp_path / "large.jpg", rows, 400_000)
    repair.save_rows(tmp_path / "small.jpg", rows, (tmp_path / "large.jpg").stat().st_size)

    with Image.open(tmp_path / "small.jpg") as sheet:
        assert sheet.size == (4 * repair.PANEL[0], 2 * (repair.PANEL[1] + 22))
    assert (tmp_path / "small.jpg").stat().st_size < (tmp_path / "large.jpg").stat().st_size


def test_the_page_tells_what_is_repaired(measured: tuple[Any, Any, Frames]) -> None:
    """The page has a row for each input and method, then the verdicts; without a file, a note."""
    clips = {"city": measured[0]}
    found = {"clips": clips, "verdicts": repair.judge(clips), "pictures": ["repair.jpg"]}
    [question] = [q for q in FIDELITY if q.benchmark == "repair"]
    result = {**step_result("NVIDIA H200"), **found}

    table, reading = report.table(question, [result]), "\n".join(question.reading(result))

    assert "| any | not measured |" in report.table(question, [])
    assert "| city | h264 | refine 100 |" in table
    assert "noise: refine 100 is closer" in reading
    assert "clean input: refine 0 loses at most 0.1 dB" in reading
    assert "![repair.jpg](pictures/repair.jpg)" in reading
