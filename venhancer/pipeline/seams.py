"""Whether joins show: the change across them against the change beside them.

Windows and tiles are joined by blending. Where two meet halfway, a seam would be a jump: in time
from one frame to the next, in space from one row or column to the next. Each jump is divided by
those nearby, in time by those one key frame earlier and later, at the same phase. 1 is no seam.
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

BESIDE = (-3, -2, 2, 3)  # rows or columns from a border that are compared with it
STILL = 1e-3  # of 255: changes below this are none


@dataclass(frozen=True, slots=True)
class Seams:
    """Mean ratio over all joins of a kind; None where there is none."""

    windows: float | None
    tiles: float | None


NO_SEAMS = Seams(None, None)


def borders(spans: Sequence[Span]) -> list[int]:
    """First position after each changeover, halfway through the overlaps."""
    return [(left.stop + right.start) // 2 for left, right in pairwise(spans)]


@dataclass(slots=True)
class SeamMeter:
    """Sees every frame that the model makes once, in order; holds one."""

    plan: Plan
    changes: list[float] = field(default_factory=list)  # from each frame to the next
    jumps: float = 0.0  # across tile borders, over those beside them: their sum
    jump_count: int = 0
    _last: Frame | None = None

    def add(self, frame: Frame) -> None:
        """The next frame: H W 3."""
        pixels = frame.astype(np.float32)
        if self._last is not None:
            self.changes.append(float(np.abs(pixels - self._last.astype(np.float32)).mean()))
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
        """What was found, once all frames were seen."""
        found = []
        for scene in self.plan.scenes:
            changes = self.changes[scene.start : scene.start + scene.frames - 1]
            found += _temporal(changes, borders(scene.windows), scene.key_stride)
        tiles = self.jumps / self.jump_count if self.jump_count else None
        return Seams(fmean(found) if found else None, tiles)


def _spatial(pixels: NDArray[np.float32], axis: int, places: Sequence[int]) -> list[float]:
    found = []
    for place in places:
        near = {p: _jump(pixels, axis, place + p) for p in (0, *BESIDE)}
        ratio = _ratio(near, list(BESIDE))
        found += [] if ratio is None else [ratio]
    return found


def _jump(pixels: NDArray[np.float32], axis: int, place: int) -> float | None:
    """Mean change from the row or column before `place` to it."""
    if not 0 < place < pixels.shape[axis]:
        return None
    here, before = pixels.take(place, axis), pixels.take(place - 1, axis)
    return float(np.abs(here - before).mean())


def _temporal(changes: Sequence[float], joins: Sequence[int], key_stride: int) -> list[float]:
    """changes[j - 1] leads to frame j."""
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
