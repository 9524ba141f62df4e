"""New frames between two enlarged key frames, by the motion of the small input frames.

Both key frames are moved to the new frame's time along the optical flow of the input frames, and
mixed. Where motion explains nothing (a fade, a flash) or where the picture stands still (a logo
over a pan), the plain mix of the two is taken instead.

The flows from the new frame to either side follow Jiang et al. 2018, "Super SloMo".
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from venhancer import motion
from venhancer.mixing import Key, Recipe, mix, rounded
from venhancer.motion import Field, Frame

FLOOR = 1e-3  # of trust, so that shares have a sum where neither side has any
WIDE = 4.0  # pixels of the input: the spread of what differences are averaged over


class Between:
    """Makes frames between two neighbouring input frames of a scene (H W 3 each)."""

    def __init__(self, first: Frame, second: Frame) -> None:
        self.first, self.second = _shallow(first), _shallow(second)

    @cached_property
    def flows(self) -> tuple[Field, Field]:
        """From the first frame to the second, and back."""
        return motion.flow(self.first, self.second), motion.flow(self.second, self.first)

    def frame(self, time: float, first: Key, second: Key) -> Key:
        """The frame at `time`, from 0 to 1, of the enlarged key frames: H W 3 each."""
        is_still = np.array_equal(self.first, self.second)
        return mix(None if is_still else self.recipe(time), time, first, second)

    def recipe(self, time: float) -> Recipe:
        """Where the frame at `time` takes its pixels from."""
        flows = self._flows_at(time)
        through = flows[1] - flows[0]
        near = (1 - time) * (_trust(self.flows[0], flows[0], through) + FLOOR)
        far = time * (_trust(self.flows[1], flows[1], -through) + FLOOR)
        moved = motion.warp(self.first, flows[0]), motion.warp(self.second, flows[1])
        explained = self._explained(*moved) / (near + far)
        return Recipe(flows, (explained * near, explained * far))

    def _flows_at(self, time: float) -> tuple[Field, Field]:
        """From the new frame to the first and to the second, corrected so that the two meet."""
        forward, backward = self.flows
        to_first = time**2 * backward - time * (1 - time) * forward
        to_second = (1 - time) ** 2 * forward - time * (1 - time) * backward
        eight_bits = np.dtype(np.uint8)
        first = rounded(motion.warp(self.first, to_first), eight_bits)
        second = rounded(motion.warp(self.second, to_second), eight_bits)
        missed = np.float32(0.5) * (motion.flow(first, second) - motion.flow(second, first))
        return to_first - time * missed, to_second + (1 - time) * missed

    def _explained(self, first: Field, second: Field) -> Field:
        """From 0, where the moved frames differ as much as the unmoved ones, to 1: H W."""
        error = _spread(_difference(first, second), WIDE)
        change = _spread(_difference(self.first, self.second), WIDE)
        return np.clip(1.5 - 1.5 * (error + 0.5) / (change + 1), 0, 1)


def _trust(own: Field, way: Field, through: Field) -> Field:
    """How far the flow of a side, found by going there, is the way through the new frame: H W."""
    agreed = motion.agreement(motion.warp(own, way), through)
    return agreed * motion.is_inside(way)


def _shallow(frame: Frame) -> NDArray[np.uint8]:
    """In 8 bits."""
    shallow = frame if frame.dtype == np.uint8 else frame >> 8
    return shallow.astype(np.uint8, copy=False)


def _difference(first: NDArray[np.uint8] | Field, second: NDArray[np.uint8] | Field) -> Field:
    """In grey levels, the mean over the channels: H W."""
    gap = np.abs(first.astype(np.float32) - second.astype(np.float32))
    return np.asarray(gap.mean(axis=-1), dtype=np.float32)


def _spread(field: Field, deviation: float) -> Field:
    return np.asarray(cv2.GaussianBlur(field, (0, 0), deviation), dtype=np.float32)
