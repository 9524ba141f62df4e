"""Frame counts, times and rates: exact, or with a reported error."""

from __future__ import annotations

from fractions import Fraction

import pytest

from venhancer.errors import OptionError
from venhancer.planning.timeline import at_rate, grid_times, interpolated


def steady(frames: int, fps: Fraction, start: Fraction = Fraction(0)) -> list[Fraction]:
    return [start + k / fps for k in range(frames)]


@pytest.mark.parametrize("frames", [1, 2, 7, 13, 100])
@pytest.mark.parametrize("factor", [1, 2, 5, 7, 8])
def test_whole_factors_keep_key_frames_in_place(frames: int, factor: int) -> None:
    """(n - 1) N + 1 frames; each input frame keeps its time; the duration is within one frame."""
    fps = Fraction(24000, 1001)
    times = steady(frames, fps)

    line = interpolated(times, fps, factor)

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

    line = at_rate(times, fps, end, wanted, is_variable=False)

    assert line.key_stride == key_stride
    assert float(line.timing_error) <= worst + 1e-9
    assert line.fps == wanted
    assert abs(len(line.times) / wanted - (end - times[0])) <= 1 / wanted
    assert all(a <= b for a, b in zip(line.shown, line.shown[1:], strict=False))


def test_one_frame_at_another_rate() -> None:
    """A single frame is repeated for its duration."""
    line = at_rate([Fraction(0)], Fraction(24), Fraction(1, 24), Fraction(60), is_variable=False)

    assert line.grid_frames == 1
    assert set(line.shown) == {0}


@pytest.mark.parametrize("target", ["12", "200", "0"])
def test_rates_out_of_reach_are_refused(target: str) -> None:
    """Rates below the input's, or more than eight times it, are refused."""
    with pytest.raises(OptionError, match="take a rate from 24 to 192"):
        at_rate(
            steady(5, Fraction(24)),
            Fraction(24),
            Fraction(5, 24),
            Fraction(target),
            is_variable=False,
        )


@pytest.mark.parametrize("factor", [0, 9])
def test_factors_out_of_range_are_refused(factor: int) -> None:
    """One line names the range."""
    with pytest.raises(OptionError, match="from 1 to 8"):
        interpolated([Fraction(0)], Fraction(24), factor)
