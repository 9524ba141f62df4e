"""Times of frames: the steady rate behind rounded stamps, and the pauses of a variable rate."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import median

from venhancer.options import FOLDER_FPS

_ROUNDING = Fraction(3, 2000)  # seconds; distances this close count as equal: Matroska counts in ms
_COMMON_RATES = (
    *(Fraction(rate) for rate in (10, 12, 15, 24, 25, 30, 48, 50, 60, 100, 120)),
    *(Fraction(1000 * rate, 1001) for rate in (24, 30, 60, 120)),
)
_NEAR = Fraction(1, 100)  # of a rate: a rate that differs less fits
_NEAR_BURST = Fraction(1, 10)
_PAUSE = 3  # steps of a burst, and
_SHORTEST_PAUSE = Fraction(1, 5)  # seconds: a longer distance is a pause


def sensible_fps(nominal: Iterable[Fraction | None], times: Sequence[Fraction]) -> Fraction:
    """Choose the first nominal rate that fits the times within 1 %, else the measured one."""
    rates = [rate for rate in nominal if rate]
    if len(times) < 2:
        return rates[0] if rates else FOLDER_FPS
    measured = (len(times) - 1) / (times[-1] - times[0])
    near = (rate for rate in rates if abs(rate / measured - 1) < _NEAR)
    return next(near, measured.limit_denominator(100_000))


def steady(
    times: Sequence[Fraction], nominal: Iterable[Fraction | None], tick: Fraction
) -> tuple[Fraction, tuple[Fraction, ...]] | None:
    """Find the constant rate whose times, rounded to `tick` seconds, are these; with exact times.

    None if there is none among the nominal and the common rates.
    """
    if len(times) < 3:
        return None
    for rate in (*(rate for rate in nominal if rate), *_COMMON_RATES):
        if all(abs(time - times[0] - k / rate) <= tick for k, time in enumerate(times)):
            return rate, tuple(times[0] + k / rate for k in range(len(times)))
    return None


def is_variable(times: Sequence[Fraction]) -> bool:
    """Tell whether the distances between frames differ by more than rounding."""
    distances = [later - earlier for earlier, later in pairwise(times)]
    return bool(distances) and max(distances) - min(distances) > _ROUNDING


def burst_rate(times: Sequence[Fraction], nominal: Iterable[Fraction | None]) -> Fraction:
    """Find the rate of frames between pauses: a nominal one that is near, else the measured one."""
    distances = sorted(later - earlier for earlier, later in pairwise(times))
    dense = distances[len(distances) // 4]
    measured = 1 / median([distance for distance in distances if distance <= 2 * dense])
    near = (rate for rate in nominal if rate and abs(rate / measured - 1) < _NEAR_BURST)
    return next(near, measured.limit_denominator(1001))


def find_pauses(times: Sequence[Fraction], rate: Fraction) -> tuple[int, ...]:
    """List the frames that come after a pause; rate: of the frames between pauses."""
    shortest = max(_PAUSE / rate, _SHORTEST_PAUSE)
    return tuple(k for k, (a, b) in enumerate(pairwise(times), 1) if b - a > shortest)
