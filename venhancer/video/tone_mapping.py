"""HDR frames (PQ or HLG, BT.2020) as SDR frames (BT.709).

Highlights are compressed by the curve of ITU-R BT.2390 (section 5.4.1), on the largest of the three
colours, so that hues stay. Its white is the reference white of HDR, 203 cd/m2 (ITU-R BT.2408).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from venhancer.video.clip import HDR
from venhancer.video.colour import HLG, Colour

WHITE = 203.0  # cd/m2
USUAL_PEAK = 1000.0  # cd/m2, where the metadata name none
PQ_PEAK = 10_000.0
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128  # SMPTE ST 2084
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073  # ARIB STD-B67
_TO_BT709 = np.array(  # of linear light, from the primaries of BT.2020 (ITU-R BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
_HLG_WEIGHTS = np.array([0.2627, 0.6780, 0.0593], np.float32)
_HLG_GAMMA = 1.2  # of a display of 1000 cd/m2
_LEVELS = 4096  # entries of the curves that are looked up


class ToneMapper:
    """Converter of HDR frames, uint16 H W 3, to SDR frames, uint8 H W 3."""

    def __init__(self, colour: Colour, hdr: HDR) -> None:
        self.is_hlg = colour.transfer == HLG
        self.is_wide = colour.primaries in (9, None)
        peak = USUAL_PEAK if self.is_hlg else _peak(hdr)
        light = PQ_PEAK * np.linspace(0, 1, _LEVELS, dtype=np.float64) ** 4  # denser where dark
        self._gain = (_compressed(light, max(peak, WHITE)) / np.maximum(light, 1e-6)).astype(
            np.float32
        )
        self._gain[0] = self._gain[1]
        codes = np.arange(65536) / 65535
        self._linear = (_hlg_linear(codes) if self.is_hlg else _pq_linear(codes)).astype(np.float32)
        shown = np.linspace(0, 1, 65536) ** (
            2 / 2.4
        )  # of roots of light; display curve of ITU-R BT.1886
        self._codes = np.rint(255 * shown).astype(np.uint8)

    def map(self, frame: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert one frame."""
        light = self._linear[frame]  # cd/m2; of HLG, scene light
        if self.is_hlg:
            luma = light @ _HLG_WEIGHTS
            light *= USUAL_PEAK * np.maximum(luma, 1e-6)[..., None] ** np.float32(_HLG_GAMMA - 1)
        largest = light.max(axis=2, keepdims=True)
        place = (np.clip(largest / PQ_PEAK, 0, 1) ** 0.25 * (_LEVELS - 1)).astype(np.int32)
        light *= self._gain[place] / np.float32(WHITE)
        if self.is_wide:
            light = light @ _TO_BT709.T
        return np.asarray(self._codes[(np.sqrt(np.clip(light, 0, 1)) * 65535).astype(np.uint16)])


def _peak(hdr: HDR) -> float:
    """Choose the brightest light of a PQ video from its metadata, in cd/m2."""
    if hdr.light is not None and hdr.light[0] > 0:
        return float(hdr.light[0])
    if hdr.mastering is not None and hdr.mastering.brightest > 0:
        return float(hdr.mastering.brightest)
    return USUAL_PEAK


def _compressed(light: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """Compress luminances up to `peak` so that they end at `WHITE`; cd/m2 both."""
    top = _pq_code(np.array(peak))
    largest = float(_pq_code(np.array(WHITE)) / top)
    knee = 1.5 * largest - 0.5
    code = np.minimum(_pq_code(light) / top, 1)
    if knee >= 1:
        return light
    t = np.clip((code - knee) / (1 - knee), 0, 1)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * largest
    )
    return _pq_linear(np.where(code < knee, code, spline) * top)


def _pq_linear(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert PQ codes, 0 to 1, to cd/m2."""
    root = np.power(code, 1 / _M2)
    light = np.maximum(root - _C1, 0) / (_C2 - _C3 * root)
    return np.asarray(PQ_PEAK * np.power(light, 1 / _M1))


def _pq_code(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert cd/m2 to PQ codes, 0 to 1."""
    power = np.power(light / PQ_PEAK, _M1)
    return np.asarray(np.power((_C1 + _C2 * power) / (1 + _C3 * power), _M2))


def _hlg_linear(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert HLG codes, 0 to 1, to relative scene light, 0 to 1."""
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - _C) / _A) + _B) / 12)
