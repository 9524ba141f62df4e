"""Rates behind rounded stamps, and pauses of a variable rate."""

from fractions import Fraction

import pytest

from tests.support.paths import CONTAINERS
from venhancer.video.probe import probe
from venhancer.video.times import burst_rate, find_pauses, is_variable, steady

MS = Fraction(1, 1000)


def in_ms(times: list[Fraction]) -> list[Fraction]:
    """Round times to milliseconds, as Matroska does."""
    return [Fraction(round(1000 * time), 1000) for time in times]


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "60", "25", "7"])
def test_a_constant_rate_in_milliseconds_becomes_exact(rate: str) -> None:
    """A nominal or a common rate is found from the stamps of 500 frames."""
    fps = Fraction(rate)
    exact = [k / fps for k in range(500)]

    assert steady(in_ms(exact), [fps], MS) == (fps, tuple(exact))


def test_stamps_that_drift_are_left_alone() -> None:
    """A rate that leaves the stamps by more than their rounding is not taken."""
    times = in_ms([k / Fraction(2399, 100) for k in range(500)])

    assert steady(times, [Fraction(24)], MS) is None
    assert not is_variable(times)


def test_a_film_in_matroska_has_a_steady_rate() -> None:
    """Every frame lasts 1001/24000 s."""
    clip = probe(CONTAINERS / "23976.mkv")

    assert clip.fps == Fraction(24000, 1001)
    assert clip.times == tuple(k / clip.fps for k in range(24))
    assert clip.end == 24 / clip.fps
    assert not clip.is_variable


def test_a_screen_recording_has_bursts_and_pauses() -> None:
    """The rate is that of the bursts, and the frames after pauses are known."""
    clip = probe(CONTAINERS / "screen.mkv")

    assert clip.is_variable
    assert clip.burst_fps == 30
    assert clip.pauses == (3, 7)


def test_jitter_of_a_phone_is_no_pause() -> None:
    """Distances of 20 to 60 ms are one burst of about 30 fps."""
    times = [Fraction(0)]
    for k in range(60):
        times.append(times[-1] + Fraction((33, 20, 33, 60)[k % 4], 1000))

    rate = burst_rate(times, [Fraction(30)])

    assert rate == 30
    assert find_pauses(times, rate) == ()
