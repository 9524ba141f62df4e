"""From file to file: the whole flow, written once over what a backend provides.

Frames are read ahead and written behind by a thread each; what is between them is bounded.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch

from venhancer.device import is_out_of_memory
from venhancer.errors import DeviceError, OutputError
from venhancer.options import Options
from venhancer.pipeline.compare import Comparison, check_comparison
from venhancer.pipeline.filling import Filling
from venhancer.pipeline.frames import QUEUE, Flow, Outcome, Progress
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.protocols import Networks
from venhancer.pipeline.queues import Behind, behind
from venhancer.pipeline.seams import NO_SEAMS, SeamMeter, Seams
from venhancer.pipeline.state import Journal, NoJournal, State
from venhancer.pipeline.stopwatch import Stopwatch
from venhancer.planning.plan import Plan
from venhancer.video.writer import FolderWriter, VideoWriter, check_target, open_writer

logger = logging.getLogger(__name__)

NO_JOURNAL = NoJournal()


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did."""

    plan: Plan
    output: Path
    wall: float  # seconds in all
    seconds: dict[str, float] = field(default_factory=dict)  # per stage; writing overlaps
    seams: Seams = NO_SEAMS


def check_output(target: Path, plan: Plan, options: Options) -> None:
    """Refuse, before any work, a place that cannot take the output."""
    if target.resolve() == plan.source.path.resolve():
        raise OutputError(f"{target} is the input itself: choose another output")
    check_target(target, options.overwrite)
    if options.compare is not None:
        check_comparison(options.compare, options.overwrite)
    free = shutil.disk_usage(target.absolute().parent).free
    if free < plan.output_bytes:
        raise OutputError(
            f"{target.absolute().parent} has {free / 1e6:.0f} MB free, "
            f"the output may need {plan.output_bytes / 1e6:.0f} MB: make room or choose another"
        )


def enhance(
    plan: Plan,
    target: Path,
    networks: Networks,
    options: Options,
    progress: Progress = silent,
    journal: Journal = NO_JOURNAL,
    smaller: Sequence[Plan] = (),
) -> Report:
    """Carry out `plan` and write `target`; nothing is left behind if it fails, but in `journal`.

    A run that goes on from a journal's state gives the same bits as one that was not cut off.
    smaller: plans of the same windows, to go on with when the device runs out of memory
    """
    check_output(target, plan, options)
    start = time.perf_counter()
    with open_output(plan, target, options) as files, torch.inference_mode():
        flow = Flow(plan, networks, options, progress)
        with closing(Outlet(plan, files, journal)) as outlet:
            course = Course(flow, journal.load() or State(), outlet, list(smaller))
            for frame in journal.frames():
                outlet.write(frame)
            with behind(outlet.leave, QUEUE) as leaving:
                course.run(leaving)
    wall = time.perf_counter() - start
    seconds = {**flow.watch.seconds, **outlet.watch.seconds}
    return Report(flow.plan, target, wall, seconds, outlet.seams())


@dataclass(slots=True)
class Course:
    """The turns of a run, up to the end; without memory for one, again with a smaller plan."""

    flow: Flow
    state: State
    outlet: Outlet
    smaller: list[Plan]
    pending: Outcome | None = None  # whose frames have not all left
    left: int = 0  # frames that the model makes that have

    def run(self, leaving: Behind[Frame]) -> None:
        self.left = self.state.frames
        while not self._is_done(leaving):
            self._shrink()

    def _is_done(self, leaving: Behind[Frame]) -> bool:
        """False where memory ran out; then the state is no longer on the device."""
        try:
            self._go_on(leaving)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not self.smaller:
                raise DeviceError(
                    f"out of memory with {self.flow.plan.arrangement}, the smallest plan of these "
                    "windows: take a smaller --window, or --memory with what is free"
                ) from error
            self._leave_device()
            return False
        return True

    def _leave_device(self) -> None:
        tensors = {name: x.cpu() for name, x in self.state.tensors.items()}
        self.state = dataclasses.replace(self.state, tensors=tensors)
        if self.pending is not None:
            latents = self.pending.latents.cpu()
            self.pending = dataclasses.replace(self.pending, latents=latents, state=self.state)

    def _go_on(self, leaving: Behind[Frame]) -> None:
        journal = self.outlet.journal
        if self.pending is not None:
            self._let_out(self.pending, leaving)
        with closing(self.flow.outcomes(self.state)) as outcomes:
            for outcome in outcomes:
                self.state, self.pending = outcome.state, outcome
                self._let_out(outcome, leaving)
                if journal.is_due():
                    leaving.flush()
                    journal.keep(self.state)

    def _let_out(self, outcome: Outcome, leaving: Behind[Frame]) -> None:
        """Decode and write its frames, but those that have left already."""
        for number, frame in enumerate(self.flow.frames(outcome), outcome.first):
            if number == self.left:
                leaving.put(frame)
                self.left += 1
        self.pending = None

    def _shrink(self) -> None:
        """Take the next plan."""
        plan = self.smaller.pop(0)
        self.flow.plan = plan
        self.outlet.adopt(plan)
        logger.warning("out of memory: goes on with %s", plan.arrangement)
        gc.collect()
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Files:
    """The output, and the comparison beside it."""

    writer: VideoWriter | FolderWriter
    comparison: Comparison | None

    def add(self, frame: Frame, moment: Fraction) -> None:
        self.writer.write(frame, moment)
        if self.comparison is not None:
            self.comparison.add(frame)


class Outlet:
    """Where frames leave, in order: seams are measured, and what is shown is written.

    The model makes the frames that come in: the whole grid, or its key frames only. Then those
    between are made here, behind the journal.
    """

    def __init__(self, plan: Plan, files: Files, journal: Journal) -> None:
        self.files = files
        self.journal = journal
        self.watch = Stopwatch()
        self.meter: SeamMeter | None = None
        self.shown = list(zip(plan.timeline.shown, plan.timeline.times, strict=True))[::-1]
        self.filling = Filling(plan) if plan.is_by_motion else None
        self.count = 0  # frames that have come in
        self.adopt(plan)

    def adopt(self, plan: Plan) -> None:
        """From now on frames are those of another plan, with the same windows."""
        self.journal.adopt(plan)
        if self.meter is not None:
            self.meter.plan = plan
        elif plan.parts > len(plan.scenes):
            self.meter = SeamMeter(plan)

    def leave(self, frame: Frame) -> None:
        """A new frame: the journal has it first."""
        with self.watch("keep"):
            self.journal.add(frame)
        self.write(frame)

    def write(self, frame: Frame) -> None:
        """The next frame that the model made: H W 3."""
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
        """Write a frame of the grid, as often as it is shown."""
        while self.shown and self.shown[-1][0] == number:
            with self.watch("write"):
                self.files.add(frame, self.shown.pop()[1])

    def seams(self) -> Seams:
        return NO_SEAMS if self.meter is None else self.meter.seams()

    def close(self) -> None:
        """Close what is read beside the run."""
        if self.filling is not None:
            self.filling.close()


@contextmanager
def open_output(plan: Plan, target: Path, options: Options) -> Iterator[Files]:
    """Open all that will be written, so that an unusable codec is told before the work."""
    writer = open_writer(
        target,
        width=plan.geometry.width,
        height=plan.geometry.height,
        fps=plan.timeline.fps,
        source=plan.source,
        crf=options.crf,
        codec=options.codec,
        overwrite=options.overwrite,
    )
    with writer, _comparison(plan, options) as comparison:
        yield Files(writer, comparison)


def _comparison(plan: Plan, options: Options) -> AbstractContextManager[Comparison | None]:
    return nullcontext() if options.compare is None else Comparison(plan, options)
