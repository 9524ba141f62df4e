"""Comparison side by side: the input, enlarged bilinearly, and the result."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from venhancer.errors import OutputError
from venhancer.files import written_whole
from venhancer.options import Options
from venhancer.pipeline.alpha import over_black
from venhancer.pipeline.pixels import Frame, resize, to_pixels
from venhancer.planning.plan import Plan
from venhancer.video.clip import Clip
from venhancer.video.png import encode_png
from venhancer.video.reading import read_alpha, read_frames
from venhancer.video.target import check_name, check_target
from venhancer.video.writer import open_writer


def check_comparison(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, a path that the comparison cannot be written to."""
    if path.suffix.lower() != ".png":
        check_target(path, overwrite)
        return
    check_name(path)
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.parent} is no folder: make it, or choose another --compare")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another --compare, or pass --overwrite")


def _without_tracks(source: Clip) -> Clip:
    """Keep what the pictures need of a source, such as depth and colour tags."""
    return dataclasses.replace(source, is_folder=True, tracks=())


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
                source=_without_tracks(plan.source),
                crf=options.crf,
                codec=options.codec,
                overwrite=options.overwrite,
                speed=options.preset_speed,
                audio="none",
                end=plan.timeline.end,
            )

    def _enlarged(self) -> Iterator[Frame]:
        """Yield, for every output frame, the input frame shown at its time, enlarged."""
        geometry, times = self.plan.geometry, self.plan.source.times
        frames = enumerate(self._read())
        number, enlarged = -1, np.empty(0, self.plan.source.frame_type)
        for moment in self.plan.timeline.times:
            on_show = max(bisect_right(times, moment) - 1, 0)
            while number < on_show:
                number, frame = next(frames)
                if number == on_show:
                    pixels = resize(frame, geometry.width, geometry.height)
                    enlarged = to_pixels(pixels, frame.dtype)[0]
            yield enlarged

    def _read(self) -> Iterator[Frame]:
        """Read the input's frames, those with alpha over black."""
        frames = read_frames(self.plan.source)
        if not self.plan.source.gives_alpha:
            return frames
        return map(over_black, frames, read_alpha(self.plan.source))

    def add(self, frame: Frame) -> None:
        """Add the next frame of the result, one with alpha over black."""
        if frame.shape[2] == 4:
            frame = over_black(frame[..., :3], frame[..., 3])
        before, moment = next(self.before), self.plan.timeline.times[self.index]
        if self.writer is not None:
            self.writer.write(np.concatenate([before, frame], axis=1), moment)
        elif self.index == len(self.plan.timeline.times) // 2:
            self._save(np.concatenate([before, frame], axis=1))
        self.index += 1

    def _save(self, picture: Frame) -> None:
        with written_whole(self.path) as temporary:
            temporary.write_bytes(encode_png(picture, self.plan.source.colour))

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
