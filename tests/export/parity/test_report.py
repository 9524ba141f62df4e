"""The limits of a verification: what passes, and what never does."""

from __future__ import annotations

import math

import pytest
import torch

from venhancer_export.parity.report import Gates, held_to, judge_call, judge_run
from venhancer_export.parity.run import pictures_differ


def test_limits_of_one_call() -> None:
    """Exported networks have limits of 1e-5 and 2e-3; PyTorch's float16 error is a reference."""
    gates = Gates()

    assert gates.l2("float32", is_yardstick=False) == 1e-5
    assert gates.l2("float16", is_yardstick=False) == 2e-3
    assert gates.l2("float16", is_yardstick=True) == 1e-2


def test_a_float32_bundle_is_not_held_to_float16() -> None:
    """The loss by half precision is reported, and is no failure."""
    assert held_to("FAIL", "float16", "float32") == "warn"
    assert held_to("FAIL", "float32", "float32") == "FAIL"
    assert held_to("FAIL", "float32", "float16") == "FAIL"
    assert held_to("FAIL", "float16", "float16") == "FAIL"
    assert held_to("pass", "float16", "float32") == "pass"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_fails(value: float) -> None:
    """No limit accepts a NaN or an infinity."""
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
