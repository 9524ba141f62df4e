"""Fades and flashes: a brightness that changes over the whole picture between two frames."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from venhancer.motion.optical_flow import Field

THUMBNAIL = (16, 12)  # width and height at which pictures are compared; motion hardly shows there
LEAST_CHANGE = 3.0  # of the mean of a channel, in grey levels: less is no fade
LEAST_SPREAD = 2.0  # of a channel, in grey levels: less is no picture
LARGEST_GAIN = 4.0
EXPLAINED = 0.5  # share of the change that may be left after the brightness is matched


@dataclass(frozen=True, slots=True)
class Levels:
    """A change of a frame's brightness: gain times value plus offset, per channel."""

    gain: Field
    offset: Field  # in grey levels, of 255

    def apply(self, values: Field, largest: int) -> Field:
        """Apply the change to values from 0 to `largest`: H W 3."""
        made = values * self.gain + self.offset * np.float32(largest / 255)
        return np.asarray(made, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Fade:
    """Means and spreads of the channels of two frames."""

    means: tuple[Field, Field]
    spreads: tuple[Field, Field]

    def levels(self, side: int, time: float) -> Levels:
        """Compute the change that brings a side to the brightness at `time`."""
        share = np.float32(time)
        mean = self.means[0] + share * (self.means[1] - self.means[0])
        spread = self.spreads[0] + share * (self.spreads[1] - self.spreads[0])
        gain = np.asarray(spread / self.spreads[side], dtype=np.float32)
        offset = np.asarray(mean - gain * self.means[side], dtype=np.float32)
        return Levels(gain, offset)


def find_fade(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Fade | None:
    """Find the change of brightness between two frames (H W 3), if it explains their difference."""
    pair = [
        cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        for frame in (first, second)
    ]
    means = tuple(np.asarray(small.mean(axis=(0, 1)), dtype=np.float32) for small in pair)
    spreads = tuple(np.asarray(small.std(axis=(0, 1)), dtype=np.float32) for small in pair)
    is_blank = min(spread.min() for spread in spreads) < LEAST_SPREAD
    if is_blank or np.abs(means[1] - means[0]).max() < LEAST_CHANGE:
        return None
    fade = Fade((means[0], means[1]), (spreads[0], spreads[1]))
    levels = fade.levels(0, 1.0)
    left = np.abs(levels.apply(pair[0], 255) - pair[1]).mean()
    is_explained = left < EXPLAINED * np.abs(pair[0] - pair[1]).mean()
    is_mild = bool((np.abs(np.log(levels.gain)) < np.log(LARGEST_GAIN)).all())
    return fade if is_explained and is_mild else None
