"""The gates of a verification: what passes, and what never does."""

from __future__ import annotations

import math

import pytest
import torch

from venhancer_export.parity import pictures_differ
from venhancer_export.parity_report import Gates, judge_call, judge_run


def test_half_precision_is_measured_against_half_precision() -> None:
    """2e-3, or half as much again as PyTorch loses, but never more than 1e-2."""
    gates = Gates()

    assert gates.l2("float32", 5e-3) == 1e-5
    assert gates.l2("float16", None) == 1e-2
    assert gates.l2("float16", 1e-4) == 2e-3
    assert gates.l2("float16", 3e-3) == pytest.approx(4.5e-3)
    assert gates.l2("float16", 9e-3) == 1e-2
    assert gates.l2("float16", math.inf) == 1e-2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_fails(value: float) -> None:
    """No limit lets a NaN or an infinity through."""
    found = {"relative_l2": value, "psnr_min": value, "ssim_min": value}

    assert judge_call(found, math.inf) == "FAIL"
    assert judge_run(found, Gates()) == "FAIL"


def test_the_worst_frame_counts() -> None:
    """One frame below 35 dB fails a run whose mean is far above."""
    expected = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    made = expected.clone()
    made[2] += 0.02

    found = pictures_differ(made, expected)

    assert found["psnr_mean"] == math.inf
    assert found["psnr_min"] == pytest.approx(-20 * math.log10(0.02), abs=0.01)
    assert judge_run({"relative_l2": 0.0, **found}, Gates()) == "FAIL"
