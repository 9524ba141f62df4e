"""Two enlarged key frames, moved and mixed into a new one, in bands of rows to save memory.

The fields of a `Recipe` have the size of the input and are enlarged bilinearly; the key frames are
sampled bicubically.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from venhancer.motion.fades import Levels
from venhancer.motion.optical_flow import Field, Frame

Key = TypeVar("Key", bound=Frame)  # enlarged: H W 3, or one channel: H W

BAND = 32  # rows that are made at a time


@dataclass(frozen=True, slots=True)
class Recipe:
    """Recipe of a new frame: flows and shares at the size of the input, in its pixels."""

    flows: tuple[Field, Field]  # from the new frame to the first and to the second: H W 2
    shares: tuple[Field, Field]  # weights of the two moved frames; the plain mix gets the rest: H W
    levels: tuple[Levels, Levels] | None = None  # to bring the two to one brightness


def mix(recipe: Recipe | None, time: float, first: Key, second: Key) -> Key:
    """Mix the frame at `time` from two enlarged key frames; the plain mix without recipe."""
    out = np.empty_like(first)
    moving = None if recipe is None else Moving(recipe, (first, second))
    for start in range(0, len(out), BAND):
        rows = slice(start, min(start + BAND, len(out)))
        made = _plain(time, first[rows], second[rows])
        if moving is not None:
            moving.put_over(made, rows)
        out[rows] = rounded(made, out.dtype)
    return out


def _plain(time: float, first: Frame, second: Frame) -> Field:
    made = cv2.addWeighted(first, 1 - time, second, time, 0, dtype=cv2.CV_32F)
    return np.asarray(made, dtype=np.float32)


class Moving:
    """Two enlarged key frames, moved to the time of the new one."""

    def __init__(self, recipe: Recipe, keys: tuple[Frame, Frame]) -> None:
        self.keys = keys
        self.levels = recipe.levels
        self.size = keys[0].shape[0], keys[0].shape[1]
        fields: list[Field] = []  # for each side: its share, and its motion right and down
        for flow, share in zip(recipe.flows, recipe.shares, strict=True):
            down, right = (self.size[axis] / share.shape[axis] for axis in (0, 1))
            fields += [share, flow[..., 0] * np.float32(right), flow[..., 1] * np.float32(down)]
        self.fields = np.stack(fields)

    def put_over(self, made: Field, rows: slice) -> None:
        """Mix the moved frames into some rows of the plain mix, changed in place."""
        fields = enlarge_rows(self.fields, rows, self.size)
        shares = [share if made.ndim == 2 else cv2.merge([share] * 3) for share in fields[::3]]
        made *= 1 - shares[0] - shares[1]
        for side, (right, down) in enumerate(zip(fields[1::3], fields[2::3], strict=True)):
            made += self._fetched(side, right, down, rows) * shares[side]

    def _fetched(self, side: int, right: Field, down: Field, rows: slice) -> Field:
        key = self.keys[side]
        moved = fetch_rows(key, right, down, rows)
        if self.levels is None:
            return moved
        return self.levels[side].apply(moved, np.iinfo(key.dtype).max)


def enlarge_rows(fields: Field, rows: slice, size: tuple[int, int]) -> Field:
    """Enlarge fields (n h w) bilinearly to `size`, but compute only some rows: n rows W."""
    height = fields.shape[1]
    numbers = np.arange(rows.start, rows.stop)
    places = np.clip((numbers + 0.5) * (height / size[0]) - 0.5, 0, height - 1)
    above = places.astype(np.intp)
    below = np.minimum(above + 1, height - 1)
    share = (places - above).astype(np.float32)[:, None]
    tall = (fields[:, above] * (1 - share) + fields[:, below] * share).reshape(-1, fields.shape[2])
    wide = cv2.resize(tall, (size[1], len(tall)), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide, dtype=np.float32).reshape(len(fields), len(numbers), size[1])


def fetch_rows(image: Frame, right: Field, down: Field, rows: slice) -> Field:
    """Sample some rows of `image`, moved by `right` and `down`: cubic, borders repeated.

    Only the rows of the image that are needed are converted to floating point.
    """
    height, width = image.shape[:2]
    columns = right + np.arange(width, dtype=np.float32)
    places = down + np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    top = int(np.clip(places.min() - 2, 0, height - 1))
    bottom = int(np.clip(places.max() + 4, top + 1, height))
    places -= top
    source = image[top:bottom].astype(np.float32)
    made = cv2.remap(source, columns, places, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(made, dtype=np.float32)


def rounded(values: Field, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round to whole numbers, and clip to the range of `dtype`."""
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)
