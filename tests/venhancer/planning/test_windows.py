"""Windows and tiles: full cover, equal lengths, key frames at borders, shares that sum to 1."""

from __future__ import annotations

from itertools import pairwise

import pytest

from venhancer.errors import OptionError
from venhancer.options import Join
from venhancer.planning.windows import temporal_windows, window_length
from venhancer.spans import cover, join_shares, tiles


@pytest.mark.parametrize("key_stride", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("keys", [1, 2, 3, 13, 40])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_every_frame_is_in_some_window(keys: int, key_stride: int, overlap: float) -> None:
    """No frame is left out; windows have equal lengths, and begin and end on key frames."""
    frames = (keys - 1) * key_stride + 1
    spans = temporal_windows(frames, 25, key_stride, overlap)

    assert set().union(*(range(s.start, s.stop) for s in spans)) == set(range(frames))
    assert len({len(s) for s in spans}) == 1
    assert all(s.start % key_stride == 0 and (s.stop - 1) % key_stride == 0 for s in spans)


@pytest.mark.parametrize("key_stride", [1, 2, 3, 4, 6, 8])
def test_the_default_window_serves_most_factors(key_stride: int) -> None:
    """24 + 1 frames hold whole strides for 1, 2, 3, 4, 6 and 8 times."""
    assert window_length(25, key_stride) == 25


@pytest.mark.parametrize(("key_stride", "length"), [(5, 21), (7, 22)])
def test_five_and_seven_times_take_shorter_windows(key_stride: int, length: int) -> None:
    """The window is the longest that begins and ends on key frames."""
    assert window_length(25, key_stride) == length


def test_a_window_without_two_key_frames_is_refused() -> None:
    """The message names the shortest window that works."""
    with pytest.raises(OptionError, match="take 9 or more"):
        window_length(8, 8)


@pytest.mark.parametrize("join", ["blend", "cut"])
@pytest.mark.parametrize(
    ("total", "length", "stride"), [(49, 25, 12), (26, 25, 12), (7, 25, 12), (40, 9, 8)]
)
def test_weights_sum_to_one(total: int, length: int, stride: int, join: Join) -> None:
    """The sum is one wherever windows overlap, two or three deep."""
    spans = cover(total, length, stride)
    sums = [0.0] * total
    for span, values in zip(spans, join_shares(spans, join), strict=True):
        for k, value in enumerate(values):
            assert 0 <= value <= 1
            sums[span.start + k] += value

    assert sums == pytest.approx([1.0] * total)


def test_blend_rises_steadily() -> None:
    """Shares rise from one window to the next without a jump."""
    first, second = join_shares(cover(37, 25, 12), "blend")

    assert second[:13] == sorted(second[:13])
    assert max(abs(a - b) for a, b in pairwise(second)) < 0.15
    assert first[12:] == pytest.approx(second[12::-1])


@pytest.mark.parametrize(
    ("size", "tile", "step"), [(90, 90, 8), (154, 90, 8), (320, 160, 8), (100, 36, 4)]
)
def test_tiles_cover_the_frame_in_steps(size: int, tile: int, step: int) -> None:
    """Equal tiles each begin on a multiple of the network's step."""
    spans = tiles(size, tile, step)

    assert set().union(*(range(s.start, s.stop) for s in spans)) == set(range(size))
    assert {len(s) for s in spans} == {min(size, tile)}
    assert all(s.start % step == 0 for s in spans)
