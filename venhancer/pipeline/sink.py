"""Frame sink, the last part of a run: frames are kept, measured, filled in and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from venhancer.options import Options
from venhancer.pipeline.alpha import AlphaPlanes, with_alpha
from venhancer.pipeline.compare import Comparison
from venhancer.pipeline.filling import Filling
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.seams import NO_SEAMS, SeamMeter, Seams
from venhancer.pipeline.state import Journal
from venhancer.pipeline.stopwatch import Stopwatch
from venhancer.planning.plan import Plan
from venhancer.video.writer import FolderWriter, VideoWriter, open_writer


class Output(Protocol):
    """Interface of an output: files, or a caller that takes the shown frames in memory."""

    def add(self, frame: Frame, moment: Fraction) -> None:
        """Take the next frame (H W 3, or H W 4 with alpha) and its time in seconds.

        Called by one thread.
        """


@dataclass(frozen=True, slots=True)
class Files:
    """Output file, and the comparison beside it."""

    writer: VideoWriter | FolderWriter
    comparison: Comparison | None

    def add(self, frame: Frame, moment: Fraction) -> None:
        self.writer.write(frame, moment)
        if self.comparison is not None:
            self.comparison.add(frame)


class FrameSink:
    """Sink that takes the model's frames, in order, and hands on those that are shown.

    The model makes the whole grid, or its key frames only; then the frames between are made here,
    and the journal does not keep them. Seams are measured here too, and alpha is added.
    """

    def __init__(self, plan: Plan, output: Output, journal: Journal) -> None:
        self.output = output
        self.journal = journal
        self.watch = Stopwatch()
        self.meter: SeamMeter | None = None
        self.shown = list(zip(plan.timeline.shown, plan.timeline.times, strict=True))[::-1]
        self.filling = Filling(plan) if plan.is_by_motion else None
        self.alpha = AlphaPlanes(plan) if plan.source.gives_alpha else None
        self.count = 0  # frames that have come in
        self.adopt(plan)

    def adopt(self, plan: Plan) -> None:
        """Switch to the frames of another plan with the same windows."""
        self.journal.adopt(plan)
        if self.meter is not None:
            self.meter.plan = plan
        elif plan.parts > len(plan.scenes):
            self.meter = SeamMeter(plan)

    def leave(self, frame: Frame) -> None:
        """Give a new frame to the journal, then write it."""
        with self.watch("keep"):
            self.journal.add(frame)
        self.write(frame)

    def write(self, frame: Frame) -> None:
        """Take the next frame that the model made: H W 3."""
        if self.meter is not None:
            with self.watch("seams"):
                self.meter.add(frame)
        if self.filling is None:
            self._show(self.count, frame)
        else:
            with self.watch("between"):
                for number, made in self.filling.add(frame):
                    self._show(number, made)
        self.count += 1

    def _show(self, number: int, frame: Frame) -> None:
        """Hand on a frame of the grid, as often as it is shown, with its alpha."""
        if not self.shown or self.shown[-1][0] != number:
            return
        if self.alpha is not None:
            with self.watch("alpha"):
                frame = with_alpha(frame, self.alpha.at(number))
        while self.shown and self.shown[-1][0] == number:
            with self.watch("write"):
                self.output.add(frame, self.shown.pop()[1])

    def seams(self) -> Seams:
        return NO_SEAMS if self.meter is None else self.meter.seams()

    def close(self) -> None:
        """Close the inputs that are read for the filling and for the alpha."""
        for reader in (self.filling, self.alpha):
            if reader is not None:
                reader.close()


@contextmanager
def open_output(plan: Plan, target: Path, options: Options) -> Iterator[Files]:
    """Open all outputs, so that an unusable codec is reported before the work."""
    writer = open_writer(
        target,
        width=plan.geometry.width,
        height=plan.geometry.height,
        fps=plan.timeline.densest_fps,
        source=plan.source,
        crf=options.crf,
        codec=options.codec,
        overwrite=options.overwrite,
        pixel_format=options.pixel_format,
        speed=options.preset_speed,
        audio=options.audio,
        has_alpha=plan.source.gives_alpha,
        end=plan.timeline.end,
    )
    with writer, _comparison(plan, options) as comparison:
        yield Files(writer, comparison)


def _comparison(plan: Plan, options: Options) -> AbstractContextManager[Comparison | None]:
    return nullcontext() if options.compare is None else Comparison(plan, options)
