"""The PSNR between the frames of two runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import frames
from venhancer.pipeline.pixels import Frame


def flat(level: int) -> Frame:
    return np.full((10, 12, 3), level, np.uint8)


def test_parity_is_of_every_frame(tmp_path: Path) -> None:
    """Mean and worst frame are given; equal frames have a PSNR, a missing frame is an error."""
    size = SimpleNamespace(height=10, width=12)
    plan: Any = SimpleNamespace(geometry=size, timeline=SimpleNamespace(grid_frames=2))
    for name, levels in (("a", (100, 100)), ("b", (100, 110))):
        with frames.FrameTap(tmp_path / name, plan) as tap:
            for level in levels:
                tap.add(flat(level))

    found = frames.compare(tmp_path / "b", tmp_path / "a")

    ten_levels = 20 * np.log10(255 / 10)
    assert found["least"] == pytest.approx(ten_levels, abs=0.01)
    assert found["mean"] == pytest.approx((ten_levels + 138.13) / 2, abs=0.01)
