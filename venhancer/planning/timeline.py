"""Times of the output frames, and the frame of the model's grid that each of them shows.

The grid has `key_stride` frames for every input frame but the last, among them the key frames at
their own times. The model makes the whole grid, or the key frames only. An integer ratio of rates
shows the whole grid. A fractional ratio takes a grid that is at least as fine and shows, at each
target time, the nearest grid frame.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil

from venhancer.errors import OptionError
from venhancer.video.clip import Clip

MAX_GAP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Grid and output frames of a run; times are in seconds on the source's clock."""

    key_stride: int  # grid frames from one key frame to the next
    grid_frames: int
    shown: tuple[int, ...]  # grid frame of each output frame
    times: tuple[Fraction, ...]  # of each output frame
    fps: Fraction  # of the output, on average
    densest_fps: Fraction  # between pauses
    end: Fraction  # when the last frame ends
    timing_error: Fraction  # largest distance of a shown grid frame from its target time, seconds


def key_of_frame(grid_frame: int, key_stride: int) -> int:
    """Return the index of the key frame at `grid_frame`, or -1 if that is an interpolated frame."""
    return -1 if grid_frame % key_stride else grid_frame // key_stride


def grid_times(times: Sequence[Fraction], key_stride: int) -> list[Fraction]:
    """Compute the times of the grid, evenly spaced between key frames."""
    grid = [a + (b - a) * k / key_stride for a, b in pairwise(times) for k in range(key_stride)]
    return [*grid, times[-1]]


def interpolated(clip: Clip, factor: int) -> Timeline:
    """Make `factor` times as many frames; key frames keep their times (variable rates too)."""
    if not 1 <= factor <= MAX_GAP:
        raise OptionError(f"interpolate={factor}: take a whole number from 1 to {MAX_GAP}")
    grid = grid_times(clip.times, factor)
    return Timeline(
        key_stride=factor,
        grid_frames=len(grid),
        shown=tuple(range(len(grid))),
        times=tuple(grid),
        fps=clip.fps * factor,
        densest_fps=(clip.burst_fps or clip.fps) * factor,
        end=clip.end,
        timing_error=Fraction(0),
    )


def at_rate(clip: Clip, target: Fraction, starts: Collection[int] = ()) -> Timeline:
    """Make a constant `target` rate: every frame lasts 1 / target, the last one too.

    starts: key frames before which nothing is interpolated; the frame before is held up to them
    """
    densest = clip.burst_fps or clip.fps
    least, most = min(clip.fps, densest), densest * MAX_GAP
    if not least <= target <= most:
        raise OptionError(
            f"fps={float(target):g}: this video has {float(densest):g}, take a rate from "
            f"{ceil(1000 * least) / 1000:g} to {float(most):g}"
        )
    key_stride = grid_gap(max(target / densest, Fraction(1)))
    grid = grid_times(clip.times, key_stride)
    count = max(1, round(clip.duration * target))
    wanted = [clip.times[0] + k / target for k in range(count)]
    held = {start - 1 for start in starts}
    shown = [_shown(grid, time, key_stride, held) for time in wanted]
    errors = [
        abs(grid[j] - t)
        for j, t in zip(shown, wanted, strict=True)
        if t <= grid[-1] and j // key_stride not in held
    ]
    return Timeline(
        key_stride=key_stride,
        grid_frames=len(grid),
        shown=tuple(shown),
        times=tuple(wanted),
        fps=target,
        densest_fps=target,
        end=wanted[-1] + 1 / target,
        timing_error=max(errors, default=Fraction(0)),
    )


def _shown(grid: Sequence[Fraction], time: Fraction, key_stride: int, held: Collection[int]) -> int:
    """Choose the grid frame for a time: the nearest, or a key frame that is held until the next."""
    key = (bisect_right(grid, time) - 1) // key_stride
    return key * key_stride if key in held else nearest(grid, time)


def grid_gap(ratio: Fraction) -> int:
    """Choose the key stride that hits every target time, or else the ratio rounded up."""
    return (
        ratio.numerator if ratio.numerator <= MAX_GAP else -(-ratio.numerator // ratio.denominator)
    )


def nearest(grid: Sequence[Fraction], time: Fraction) -> int:
    """Find the index of the nearest entry of a sorted grid; of two, the earlier one."""
    after = min(bisect_left(grid, time), len(grid) - 1)
    before = max(after - 1, 0)
    return before if time - grid[before] <= grid[after] - time else after
