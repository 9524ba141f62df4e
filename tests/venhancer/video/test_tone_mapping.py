"""HDR levels become the levels of an SDR display."""

import dataclasses

import numpy as np
import pytest

from venhancer.video.clip import HDR
from venhancer.video.colour import Colour
from venhancer.video.tone_mapping import ToneMapper


def pq_code(light: float) -> int:
    """Compute the 16-bit PQ code of a luminance in cd/m2 (SMPTE ST 2084)."""
    power = (light / 10_000) ** 0.1593017578125
    return round(65535 * ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def grey(code: int) -> np.ndarray:
    return np.full((2, 2, 3), code, np.uint16)


PQ_COLOUR = Colour(matrix=9, range=1, primaries=9, transfer=16)


def test_pq_becomes_sdr() -> None:
    """The reference white is near white, black is black, highlights are kept apart."""
    mapper = ToneMapper(PQ_COLOUR, HDR(light=(1000, 400)))

    black, dark, white, bright, peak = (
        int(mapper.map(grey(pq_code(light) if light else 0))[0, 0, 1])
        for light in (0, 5, 203, 600, 1000)
    )

    assert black == 0
    assert dark == pytest.approx(255 * (5 / 203) ** (1 / 2.4), abs=3)
    assert 200 < white < bright < peak
    assert peak >= 254


def test_dim_pq_is_not_compressed() -> None:
    """If the peak is the reference white, levels are as on an SDR display."""
    mapper = ToneMapper(PQ_COLOUR, HDR(light=(203, 100)))

    for light in (10.0, 100.0, 203.0):
        wanted = 255 * (light / 203) ** (1 / 2.4)
        assert int(mapper.map(grey(pq_code(light)))[0, 0, 0]) == pytest.approx(wanted, abs=2)


def test_hlg_becomes_sdr() -> None:
    """Three quarters of the signal is the reference white (ITU-R BT.2408)."""
    mapper = ToneMapper(dataclasses.replace(PQ_COLOUR, transfer=18), HDR())

    levels = [int(mapper.map(grey(round(65535 * v)))[0, 0, 0]) for v in (0, 0.25, 0.75, 1)]

    assert levels == sorted(levels)
    assert levels[0] == 0
    assert 200 < levels[2] < 250
    assert levels[3] >= 254


def test_a_hue_stays_under_compression() -> None:
    """The ratio of the colours' light is that of the source."""
    mapper = ToneMapper(dataclasses.replace(PQ_COLOUR, primaries=1), HDR(light=(1000, 400)))
    light = (900.0, 300.0, 90.0)

    found = mapper.map(np.array([[[pq_code(v) for v in light]]], np.uint16))[0, 0]

    shown = (found / 255.0) ** 2.4
    assert shown / shown[0] == pytest.approx(np.array(light) / light[0], abs=0.02)
