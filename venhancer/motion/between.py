"""New frames between two enlarged key frames, by the motion of the small input frames.

Both key frames are moved to the new frame's time along the optical flow of the input frames, and
mixed. The plain mix of the two is used instead where motion does not explain the change (another
picture shines through, things move too fast), and where the picture stands still (a logo over a
pan).

The flows from the new frame to either side follow Jiang et al. 2018, "Super SloMo".
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from venhancer.motion import optical_flow as motion
from venhancer.motion.fades import find_fade
from venhancer.motion.mixing import Key, Recipe, mix, rounded
from venhancer.motion.optical_flow import Field, Frame

FLOOR = 1e-3  # added to trust, so that the sum of both sides is never zero
WIDE, MIDDLE, NARROW = 4.0, 1.5, 0.6  # deviations of the blurs of differences, in input pixels
BYTE = np.dtype(np.uint8)


class Between:
    """Interpolator between two neighbouring input frames of a scene (H W 3 each)."""

    def __init__(self, first: Frame, second: Frame) -> None:
        self.first, self.second = _shallow(first), _shallow(second)
        self.is_still = np.array_equal(self.first, self.second)
        self.fade = find_fade(self.first, self.second)
        if self.fade is not None:
            levels = [self.fade.levels(side, 0.5) for side in (0, 1)]
            self.first = rounded(levels[0].apply(self.first.astype(np.float32), 255), BYTE)
            self.second = rounded(levels[1].apply(self.second.astype(np.float32), 255), BYTE)

    @cached_property
    def flows(self) -> tuple[Field, Field]:
        """Flows from the first frame to the second, and back."""
        return motion.flow(self.first, self.second), motion.flow(self.second, self.first)

    def frame(self, time: float, first: Key, second: Key) -> Key:
        """Make the frame at `time`, from 0 to 1, from the enlarged key frames: H W 3 each."""
        return mix(None if self.is_still else self.recipe(time), time, first, second)

    def plane(self, time: float, first: Key, second: Key) -> Key:
        """Make one more channel at `time`, such as alpha, which moves like the colours: H W each.

        It does not fade with them.
        """
        recipe = None if self.is_still else replace(self.recipe(time), levels=None)
        return mix(recipe, time, first, second)

    def recipe(self, time: float) -> Recipe:
        """Compute where the frame at `time` takes its pixels from."""
        flows = self._flows_at(time)
        through = flows[1] - flows[0]
        near = (1 - time) * (_trust(self.flows[0], flows[0], through) + FLOOR)
        far = time * (_trust(self.flows[1], flows[1], -through) + FLOOR)
        moved = motion.warp(self.first, flows[0]), motion.warp(self.second, flows[1])
        share = self._explained(*moved) * (1 - self._standing) / (near + far)
        fade = self.fade
        levels = None if fade is None else (fade.levels(0, time), fade.levels(1, time))
        return Recipe(flows, (share * near, share * far), levels)

    def _flows_at(self, time: float) -> tuple[Field, Field]:
        """Compute flows from the new frame to both sides, corrected so that both ends agree."""
        forward, backward = self.flows
        to_first = time**2 * backward - time * (1 - time) * forward
        to_second = (1 - time) ** 2 * forward - time * (1 - time) * backward
        first = rounded(motion.warp(self.first, to_first), BYTE)
        second = rounded(motion.warp(self.second, to_second), BYTE)
        missed = np.float32(0.5) * (motion.flow(first, second) - motion.flow(second, first))
        return to_first - time * missed, to_second + (1 - time) * missed

    def _explained(self, first: Field, second: Field) -> Field:
        """Rate how well motion explains the change, from 0 to 1: H W.

        It is 0 where the moved frames differ as much as the unmoved ones. With the narrower blur,
        they may differ a little more than the unmoved ones, since that happens by chance.
        """
        error, change = _difference(first, second), self._change
        far = 1.5 - 1.5 * (_spread(error, WIDE) + 0.5) / (_spread(change, WIDE) + 1)
        near = 3 - 2 * (_spread(error, MIDDLE) + 2) / (_spread(change, MIDDLE) + 2)
        return np.clip(far, 0, 1) * np.clip(near, 0, 1)

    @cached_property
    def _change(self) -> Field:
        return _difference(self.first, self.second)

    @cached_property
    def _standing(self) -> Field:
        """Mask, up to 1 where the picture stands still although its flow says it moves: H W."""
        forward, backward = self.flows
        ahead = _spread(_difference(self.first, motion.warp(self.second, forward)), NARROW)
        back = _spread(_difference(self.second, motion.warp(self.first, backward)), NARROW)
        error = np.sqrt(ahead * back)
        found = np.clip(2 * (error - 1.3 * _spread(self._change, NARROW) - 3) / (error + 1), 0, 1)
        return np.asarray(cv2.dilate(found, np.ones((3, 3), dtype=np.uint8)), dtype=np.float32)


def _trust(own: Field, way: Field, through: Field) -> Field:
    """Compare a side's own flow, fetched there, with the motion through the new frame: H W."""
    agreed = motion.agreement(motion.warp(own, way), through)
    return agreed * motion.is_inside(way)


def _shallow(frame: Frame) -> NDArray[np.uint8]:
    """Convert a frame to 8 bits."""
    shallow = frame if frame.dtype == np.uint8 else frame >> 8
    return shallow.astype(np.uint8, copy=False)


def _difference(first: NDArray[np.uint8] | Field, second: NDArray[np.uint8] | Field) -> Field:
    """Compute the absolute difference in grey levels, averaged over the channels: H W."""
    gap = np.abs(first.astype(np.float32) - second.astype(np.float32))
    return np.asarray(gap.mean(axis=-1), dtype=np.float32)


def _spread(field: Field, deviation: float) -> Field:
    return np.asarray(cv2.GaussianBlur(field, (0, 0), deviation), dtype=np.float32)
