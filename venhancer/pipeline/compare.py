"""Comparison side by side: the input, enlarged bilinearly, and the result."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from venhancer.errors import OutputError
from venhancer.files import written_whole
from venhancer.options import Options
from venhancer.pipeline.pixels import Frame, resize, to_pixels
from venhancer.planning.plan import Plan
from venhancer.video.probe import read_frames
from venhancer.video.writer import check_target, open_writer


def check_comparison(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, a path that the comparison cannot be written to."""
    if path.suffix.lower() != ".png":
        check_target(path, overwrite)
    elif not path.absolute().parent.is_dir():
        raise OutputError(f"{path.parent} is no folder: make it, or choose another --compare")
    elif path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another --compare, or pass --overwrite")


class Comparison:
    """Writer that takes the result frame by frame; makes a video, or a .png of the middle frame."""

    def __init__(self, plan: Plan, options: Options) -> None:
        assert options.compare is not None
        self.plan = plan
        self.path = options.compare
        self.is_picture = self.path.suffix.lower() == ".png"
        self.before = self._enlarged()
        self.index = 0
        self.writer: Any = None
        if not self.is_picture:
            self.writer = open_writer(
                self.path,
                width=2 * plan.geometry.width,
                height=plan.geometry.height,
                fps=plan.timeline.fps,
                source=None,
                crf=options.crf,
                codec=options.codec,
                overwrite=options.overwrite,
            )

    def _enlarged(self) -> Iterator[Frame]:
        """Yield, for every output frame, the input frame shown at its time, enlarged."""
        geometry, times = self.plan.geometry, self.plan.source.times
        frames = enumerate(read_frames(self.plan.source))
        number, enlarged = -1, np.empty(0, dtype=np.uint8)
        for moment in self.plan.timeline.times:
            on_show = max(bisect_right(times, moment) - 1, 0)
            while number < on_show:
                number, frame = next(frames)
                if number == on_show:
                    pixels = resize(frame, geometry.width, geometry.height)
                    enlarged = to_pixels(pixels)[0]
            yield enlarged

    def add(self, frame: Frame) -> None:
        """Add the next frame of the result."""
        before, moment = next(self.before), self.plan.timeline.times[self.index]
        if self.writer is not None:
            self.writer.write(np.concatenate([before, frame], axis=1), moment)
        elif self.index == len(self.plan.timeline.times) // 2:
            self._save(np.concatenate([before, frame], axis=1))
        self.index += 1

    def _save(self, picture: Frame) -> None:
        with written_whole(self.path) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")

    def __enter__(self) -> Comparison:
        if self.writer is not None:
            self.writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.writer is not None:
            self.writer.__exit__(kind, error, trace)
