"""When each output frame is shown, and which frame of the model's grid it is.

There is a grid: `key_stride` frames for every input frame but the last, key frames among them
at their own times; the model makes all of it, or the key frames only. An integer
ratio shows the whole grid. A fractional one takes a grid at least as fine as asked and shows, at
each target time, the grid frame that lies nearest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from venhancer.errors import OptionError

MAX_GAP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Times are in seconds on the source's clock."""

    key_stride: int  # grid frames from one key frame to the next
    grid_frames: int
    shown: tuple[int, ...]  # grid frame of each output frame
    times: tuple[Fraction, ...]  # of each output frame
    fps: Fraction  # nominal rate of the output
    timing_error: Fraction  # largest distance of a shown grid frame from its target time, seconds


def key_of_frame(grid_frame: int, key_stride: int) -> int:
    """Index of the key frame that stands at `grid_frame`, or -1 where one is interpolated."""
    return -1 if grid_frame % key_stride else grid_frame // key_stride


def grid_times(times: Sequence[Fraction], key_stride: int) -> list[Fraction]:
    """Times of the grid: between key frames, evenly."""
    grid = [a + (b - a) * k / key_stride for a, b in pairwise(times) for k in range(key_stride)]
    return [*grid, times[-1]]


def interpolated(times: Sequence[Fraction], fps: Fraction, factor: int) -> Timeline:
    """`factor` times as many frames, each key frame at its own time (variable rates too)."""
    if not 1 <= factor <= MAX_GAP:
        raise OptionError(f"interpolate={factor}: take a whole number from 1 to {MAX_GAP}")
    grid = grid_times(times, factor)
    return Timeline(
        key_stride=factor,
        grid_frames=len(grid),
        shown=tuple(range(len(grid))),
        times=tuple(grid),
        fps=fps * factor,
        timing_error=Fraction(0),
    )


def at_rate(
    times: Sequence[Fraction], fps: Fraction, end: Fraction, target: Fraction, is_variable: bool
) -> Timeline:
    """A constant `target` rate from the first frame's time up to `end`, where the last one ends."""
    ratio = target / fps
    if not 1 <= ratio <= MAX_GAP:
        raise OptionError(
            f"fps={float(target):g} from {float(fps):g}: take a rate from {float(fps):g} "
            f"to {float(fps * MAX_GAP):g}"
        )
    if ratio.denominator == 1 and not is_variable:
        return interpolated(times, fps, int(ratio))
    key_stride = grid_gap(ratio)
    grid = grid_times(times, key_stride)
    count = max(1, round((end - times[0]) * target))
    wanted = [times[0] + k / target for k in range(count)]
    shown = [nearest(grid, time) for time in wanted]
    errors = [abs(grid[j] - t) for j, t in zip(shown, wanted, strict=True) if t <= grid[-1]]
    return Timeline(
        key_stride=key_stride,
        grid_frames=len(grid),
        shown=tuple(shown),
        times=tuple(wanted),
        fps=target,
        timing_error=max(errors),
    )


def grid_gap(ratio: Fraction) -> int:
    """The grid that holds every target time exactly, or else the next multiple that is as fine."""
    return (
        ratio.numerator if ratio.numerator <= MAX_GAP else -(-ratio.numerator // ratio.denominator)
    )


def nearest(grid: Sequence[Fraction], time: Fraction) -> int:
    """Index of the entry of a sorted grid that lies nearest; the earlier one of two."""
    after = min(bisect_left(grid, time), len(grid) - 1)
    before = max(after - 1, 0)
    return before if time - grid[before] <= grid[after] - time else after
