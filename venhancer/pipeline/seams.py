"""Measure of visible seams: the change across a join, relative to the change beside it.

Windows and tiles are joined by blending. Halfway through an overlap, a seam would be a jump: in
time from one frame to the next, in space from one row or column to the next. Each jump is divided
by the jumps nearby; in time, by those one key frame earlier and later, at the same phase. A ratio
of 1 means no seam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from venhancer.pipeline.pixels import Frame
from venhancer.planning.plan import Plan
from venhancer.spans import Span

BESIDE = (
    -3,
    -2,
    2,
    3,
)  # rows or columns from a border, whose changes it is compared with
STILL = 1e-3  # grey levels of 255; smaller changes count as none


@dataclass(frozen=True, slots=True)
class Seams:
    """Mean ratio over all joins of a kind; None without joins."""

    windows: float | None
    tiles: float | None


NO_SEAMS = Seams(None, None)


def borders(spans: Sequence[Span]) -> list[int]:
    """List the first position after each changeover, halfway through the overlaps."""
    return [(left.stop + right.start) // 2 for left, right in pairwise(spans)]


@dataclass(slots=True)
class SeamMeter:
    """Meter that sees every frame of the model once, in order, and holds one."""

    plan: Plan
    changes: list[float] = field(default_factory=list)  # from each frame to the next
    jumps: float = 0.0  # sum of the ratios at tile borders
    jump_count: int = 0
    _last: Frame | None = None

    def add(self, frame: Frame) -> None:
        """Measure the next frame: H W 3."""
        pixels = _grey_levels(frame)
        if self._last is not None:
            self.changes.append(float(np.abs(pixels - _grey_levels(self._last)).mean()))
        self._last = frame
        sampling, geometry = self.plan.sampling, self.plan.geometry
        stride = self.plan.preset.model.latent_stride
        for axis, spans, padding in (
            (0, sampling.rows, geometry.top),
            (1, sampling.columns, geometry.left),
        ):
            places = [stride * border - padding for border in borders(spans)]
            found = _spatial(pixels, axis, places)
            self.jumps += sum(found)
            self.jump_count += len(found)

    def seams(self) -> Seams:
        """Compute the mean ratios, once all frames were added."""
        found = []
        for scene in self.plan.scenes:
            changes = self.changes[scene.start : scene.start + scene.frames - 1]
            found += _temporal(changes, borders(scene.windows), scene.key_stride)
        tiles = self.jumps / self.jump_count if self.jump_count else None
        return Seams(fmean(found) if found else None, tiles)


def _grey_levels(frame: Frame) -> NDArray[np.float32]:
    """Convert the values of any depth to grey levels of 255."""
    pixels = frame.astype(np.float32)
    return pixels if frame.dtype == np.uint8 else pixels / np.float32(257)


def _spatial(pixels: NDArray[np.float32], axis: int, places: Sequence[int]) -> list[float]:
    found = []
    for place in places:
        near = {p: _jump(pixels, axis, place + p) for p in (0, *BESIDE)}
        ratio = _ratio(near, list(BESIDE))
        found += [] if ratio is None else [ratio]
    return found


def _jump(pixels: NDArray[np.float32], axis: int, place: int) -> float | None:
    """Compute the mean change from the row or column before `place` to it."""
    if not 0 < place < pixels.shape[axis]:
        return None
    here, before = pixels.take(place, axis), pixels.take(place - 1, axis)
    return float(np.abs(here - before).mean())


def _temporal(changes: Sequence[float], joins: Sequence[int], key_stride: int) -> list[float]:
    """Compute the ratios at `joins`; changes[j - 1] is the change to frame j."""
    found = []
    for join in joins:
        steps = {d: join - 1 + d for d in (0, -key_stride, key_stride)}
        near = {d: changes[i] if 0 <= i < len(changes) else None for d, i in steps.items()}
        ratio = _ratio(near, [-key_stride, key_stride])
        found += [] if ratio is None else [ratio]
    return found


def _ratio(near: Mapping[int, float | None], beside: Sequence[int]) -> float | None:
    around = [x for d in beside if (x := near[d]) is not None]
    here = near[0]
    if here is None or not around:
        return None
    return (here + STILL) / (fmean(around) + STILL)
