"""Alpha of the output: that of the input, enlarged, and moved like the colours between key frames.

Colours and alpha are straight: neither is multiplied with the other. Journals do not keep alpha,
because it depends only on the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np

from venhancer.motion.between import Between
from venhancer.motion.mixing import rounded
from venhancer.pipeline.filling import beginnings
from venhancer.pipeline.pixels import Frame, largest, resize, to_pixels
from venhancer.pipeline.queues import close
from venhancer.planning.plan import Plan
from venhancer.video.reading import read_alpha, read_frames


class AlphaPlanes:
    """Maker of the alpha of grid frames, asked for in increasing order.

    It reads the input once more, and holds two planes of the output's size.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.key_stride = plan.timeline.key_stride
        self.beginnings = beginnings(plan)
        self.planes = read_alpha(plan.source)
        self.frames: Iterator[Frame | None] = repeat(None)  # without new frames nothing moves
        if self.key_stride > 1:
            self.frames = read_frames(plan.source)
        self.reached = -1
        self.held: dict[int, tuple[Frame | None, Frame]] = {}  # input frame, and enlarged alpha
        self.between: tuple[int, Between] | None = None  # after the key frame of this number

    def at(self, number: int) -> Frame:
        """Make the alpha of a grid frame: H W."""
        key, step = divmod(number, self.key_stride)
        before, plane = self._key(key)
        if step == 0 or key + 1 in self.beginnings:
            return plane
        after, following = self._key(key + 1)
        if np.array_equal(plane, following):
            return plane
        assert before is not None and after is not None
        if self.between is None or self.between[0] != key:
            self.between = key, Between(before, after)
        return self.between[1].plane(step / self.key_stride, plane, following)

    def _key(self, key: int) -> tuple[Frame | None, Frame]:
        """Read up to a key frame; keep the one before it too."""
        while self.reached < key:
            self.reached += 1
            read = next(self.frames), self._enlarged(next(self.planes))
            self.held = {k: pair for k, pair in self.held.items() if k == self.reached - 1}
            self.held[self.reached] = read
        return self.held[key]

    def _enlarged(self, plane: Frame) -> Frame:
        geometry = self.plan.geometry
        pixels = resize(plane[..., None], geometry.width, geometry.height, "bicubic")
        return to_pixels(pixels, self.plan.source.frame_type)[0, ..., 0]

    def close(self) -> None:
        """Close the input."""
        for reader in (self.frames, self.planes):
            close(reader)


def with_alpha(frame: Frame, plane: Frame) -> Frame:
    """Add a fourth channel: H W 3 and H W -> H W 4."""
    return np.concatenate([frame, plane[..., None]], axis=2)


def over_black(frame: Frame, plane: Frame) -> Frame:
    """Put a frame over black: H W 3 and its alpha, H W -> H W 3."""
    share = plane[..., None].astype(np.float32) / np.float32(largest(plane))
    return rounded(frame.astype(np.float32) * share, frame.dtype)
