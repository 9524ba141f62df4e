"""Frames between the model's key frames, made by motion to fill the grid."""

from __future__ import annotations

from collections.abc import Iterator

from venhancer.motion.between import Between
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.queues import close
from venhancer.planning.plan import Plan
from venhancer.video.reading import read_frames


def beginnings(plan: Plan) -> frozenset[int]:
    """Find the key frames after a cut or a pause: the frame before is held up to them."""
    return frozenset(scene.keys.start for scene in plan.scenes)


class Filling:
    """Interpolator that takes every key frame once, in order, and yields the shown grid frames.

    It reads the input too, one frame for each key frame. A new frame depends only on two input
    frames, their two key frames and its time.
    """

    def __init__(self, plan: Plan) -> None:
        self.key_stride = plan.timeline.key_stride
        self.wanted = frozenset(plan.timeline.shown)
        self.beginnings = beginnings(plan)
        self.inputs = read_frames(plan.source)
        self.count = 0  # key frames so far
        self.last: tuple[Frame, Frame] | None = None  # the input frame, and its key frame

    def add(self, key: Frame) -> Iterator[tuple[int, Frame]]:
        """Yield grid frames with their numbers: those since the last key frame, then this one."""
        number, now = self.count * self.key_stride, (next(self.inputs), key)
        if self.last is not None:
            yield from self._between(self.last, now, number - self.key_stride)
        if number in self.wanted:
            yield number, key
        self.count, self.last = self.count + 1, now

    def _between(
        self, before: tuple[Frame, Frame], after: tuple[Frame, Frame], start: int
    ) -> Iterator[tuple[int, Frame]]:
        """Yield the frames between two key frames; repeat the first up to a cut or a pause."""
        is_held = self.count in self.beginnings
        maker = Between(before[0], after[0])
        for step in range(1, self.key_stride):
            if start + step in self.wanted:
                time = step / self.key_stride
                held = before[1] if is_held else maker.frame(time, before[1], after[1])
                yield start + step, held

    def close(self) -> None:
        """Close the input."""
        close(self.inputs)
