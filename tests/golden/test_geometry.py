"""Sizes, paddings and key-frame layouts equal those of the release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from venhancer.planning.geometry import released_padding, released_size
from venhancer.planning.timeline import key_of_frame

GOLDEN = json.loads((Path(__file__).parent / "geometry.json").read_text())


@pytest.mark.parametrize("row", GOLDEN["adjust_resolution"])
def test_released_sizes(row: list[float]) -> None:
    """Every input size and scale gives the release's output size."""
    height, width, scale, out_height, out_width = row

    assert released_size(int(width), int(height), scale) == (out_width, out_height)


@pytest.mark.parametrize("row", GOLDEN["pad_to_fit"])
def test_released_paddings(row: list[int]) -> None:
    """Every output size is padded as in the release."""
    height, width, *padding = row

    found = released_padding(width, height)

    assert [found.left, found.right, found.top, found.bottom] == padding


@pytest.mark.parametrize("row", GOLDEN["make_mask_cond"])
def test_key_frame_layout(row: tuple[int, int, list[int]]) -> None:
    """Key frame i lies at i (m + 1); frames between are no key frames."""
    keys, interpolated, layout = row

    assert [key_of_frame(j, interpolated + 1) for j in range(len(layout))] == layout
    assert (keys - 1) * (interpolated + 1) + 1 == len(layout)
