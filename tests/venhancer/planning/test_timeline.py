"""Frame counts, times and rates: exact, or with a reported error."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import pairwise

import pytest

from tests.support.clips import described_clip
from venhancer.errors import OptionError
from venhancer.planning.timeline import at_rate, grid_times, interpolated
from venhancer.video.clip import Clip


def described(times: list[Fraction], fps: Fraction) -> Clip:
    end = times[-1] + 1 / fps
    return dataclasses.replace(described_clip(), times=tuple(times), fps=fps, end=end)


def steady(frames: int, fps: Fraction, start: Fraction = Fraction(0)) -> list[Fraction]:
    return [start + k / fps for k in range(frames)]


@pytest.mark.parametrize("frames", [1, 2, 7, 13, 100])
@pytest.mark.parametrize("factor", [1, 2, 5, 7, 8])
def test_whole_factors_keep_key_frames_in_place(frames: int, factor: int) -> None:
    """(n - 1) N + 1 frames; each input frame keeps its time; the duration is within one frame."""
    fps = Fraction(24000, 1001)
    times = steady(frames, fps)

    line = interpolated(described(times, fps), factor)

    assert len(line.times) == (frames - 1) * factor + 1
    assert list(line.times[::factor]) == times
    assert abs(len(line.times) / line.fps - frames / fps) < 1 / fps


def test_variable_rate_keeps_its_own_times() -> None:
    """New frames lie at even times between their two input frames."""
    times = [Fraction(0), Fraction(1, 10), Fraction(4, 10)]

    assert grid_times(times, 2) == [Fraction(k, 20) for k in (0, 1, 2, 5, 8)]


@pytest.mark.parametrize(
    ("source", "target", "key_stride", "worst"),
    [
        ("24", "60", 5, 0.0),
        ("25", "60", 3, 1 / 150),
        ("24000/1001", "24", 2, 1 / 95),
        ("24", "48", 2, 0.0),
    ],
)
def test_fractional_rates(source: str, target: str, key_stride: int, worst: float) -> None:
    """The grid is exact if 8x allows it, else the next multiple, with a bounded timing error."""
    fps, wanted = Fraction(source), Fraction(target)
    times = steady(101, fps, Fraction(1, 3))
    end = times[-1] + 1 / fps

    line = at_rate(described(times, fps), wanted)

    assert line.key_stride == key_stride
    assert float(line.timing_error) <= worst + 1e-9
    assert line.fps == wanted
    assert abs(len(line.times) / wanted - (end - times[0])) <= 1 / (2 * wanted)
    assert line.end == line.times[-1] + 1 / wanted
    assert all(a <= b for a, b in zip(line.shown, line.shown[1:], strict=False))


def test_one_frame_at_another_rate() -> None:
    """A single frame is repeated for its duration."""
    line = at_rate(described([Fraction(0)], Fraction(24)), Fraction(60))

    assert line.grid_frames == 1
    assert set(line.shown) == {0}


@pytest.mark.parametrize("target", ["12", "200", "0"])
def test_rates_out_of_reach_are_refused(target: str) -> None:
    """Rates below the input's, or more than eight times it, are refused."""
    with pytest.raises(OptionError, match="take a rate from 24 to 192"):
        at_rate(described(steady(5, Fraction(24)), Fraction(24)), Fraction(target))


@pytest.mark.parametrize("factor", [0, 9])
def test_factors_out_of_range_are_refused(factor: int) -> None:
    """One line names the range."""
    with pytest.raises(OptionError, match="from 1 to 8"):
        interpolated(described([Fraction(0)], Fraction(24)), factor)


@pytest.mark.parametrize(("fps", "target", "frames"), [("10", "24", 24), ("10", "20", 20)])
def test_a_constant_rate_is_constant_to_its_end(fps: str, target: str, frames: int) -> None:
    """A second of 10 fps has 24 frames at 24 fps, all equally long."""
    line = at_rate(described(steady(10, Fraction(fps)), Fraction(fps)), Fraction(target))

    assert len(line.times) == frames
    assert {b - a for a, b in pairwise([*line.times, line.end])} == {1 / Fraction(target)}


def test_a_pause_holds_the_frame_before_it() -> None:
    """Between bursts of 30 fps the last frame is shown until the next one begins."""
    times = [*steady(3, Fraction(30)), *steady(3, Fraction(30), Fraction(2))]
    clip = dataclasses.replace(
        described(times, Fraction(30)),
        fps=Fraction(5, 2),
        is_variable=True,
        burst_fps=Fraction(30),
        pauses=(3,),
    )

    line = at_rate(clip, Fraction(60), clip.pauses)

    shown = dict(zip(line.times, line.shown, strict=True))
    assert line.key_stride == 2
    assert {j for time, j in shown.items() if Fraction(1, 15) <= time < 2} == {4}
    assert shown[Fraction(2)] == 6
    assert line.timing_error == 0
    with pytest.raises(OptionError, match=r"from 2\.5 to 240"):
        at_rate(clip, Fraction(241))
