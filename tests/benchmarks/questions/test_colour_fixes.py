"""The measure of colours, and the rule by which a fix wins."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.questions.colour_fixes import NONE, block_means, colour_error, winner


def test_blocks_are_averaged() -> None:
    """Blocks of 16x16 pixels, by channel; pixels beyond the last whole block do not count."""
    frames = np.zeros((2, 40, 50, 3), np.uint8)
    frames[1, :16, 16:32, 2] = 100
    frames[:, 32:] = 255

    means = block_means(frames)

    assert means.shape == (2, 2, 3, 3)
    assert means[1, 0, 1].tolist() == [0, 0, 100]
    assert means.sum() == 100


def test_detail_is_no_colour_error() -> None:
    """Detail within a block does not count, but a tint does."""
    truth = np.full((1, 32, 32, 3), 100, np.uint8)
    detailed, tinted = truth.copy(), truth + np.uint8(3)
    detailed[:, ::2] += 20
    detailed[:, 1::2] -= 20

    assert colour_error(detailed, truth) == 0
    assert colour_error(tinted, truth) == 3


@pytest.mark.parametrize(
    ("error", "lpips", "expected"),
    [(0.5, 0.1, "lab"), (0.97, 0.1, NONE), (0.5, 0.11, NONE), (1.5, 0.05, NONE)],
)
def test_a_fix_wins_clearly_or_not_at_all(error: float, lpips: float, expected: str) -> None:
    """It needs a colour error 5 % lower on every clip, and no higher LPIPS."""

    def rows(lab: tuple[float, float]) -> dict[str, dict[str, float]]:
        found = {fix: {"colour_error": 1.0, "lpips": 0.1} for fix in (NONE, "wavelet", "adain")}
        return {**found, "lab": dict(zip(("colour_error", "lpips"), lab, strict=True))}

    assert winner({"a": rows((0.4, 0.1)), "b": rows((error, lpips))}) == expected
