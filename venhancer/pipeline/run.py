"""Run from file to file, the same for the networks of every backend.

One thread reads frames ahead, another writes them behind; the queues between are bounded.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from venhancer.device import is_out_of_memory
from venhancer.errors import DeviceError, OutputError
from venhancer.options import Options
from venhancer.pipeline.compare import check_comparison
from venhancer.pipeline.frames import QUEUE, Flow, GeneratedFrames, Progress
from venhancer.pipeline.networks import Networks
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.queues import Behind, behind
from venhancer.pipeline.seams import NO_SEAMS, Seams
from venhancer.pipeline.sink import FrameSink, Output, open_output
from venhancer.pipeline.state import Journal, NoJournal, State
from venhancer.planning.plan import Plan
from venhancer.video.delivery import Delivery, plan_delivery
from venhancer.video.target import check_target

logger = logging.getLogger(__name__)

NO_JOURNAL = NoJournal()


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a run."""

    plan: Plan
    output: Path | None  # None if frames were handed on in memory
    wall: float  # seconds in all
    seconds: dict[str, float] = field(default_factory=dict)  # per stage; writing overlaps
    seams: Seams = NO_SEAMS


def check_output(target: Path, plan: Plan, options: Options) -> None:
    """Refuse, before any work, a path that the output cannot be written to."""
    if target.resolve() == plan.source.path.resolve():
        raise OutputError(f"{target} is the input itself: choose another output")
    check_target(target, options.overwrite)
    if options.compare is not None:
        taken = (target.resolve(), plan.source.path.resolve())
        if options.compare.resolve() in taken:
            raise OutputError(f"--compare {options.compare} is the input or output: choose another")
        check_comparison(options.compare, options.overwrite)
    free = shutil.disk_usage(target.absolute().parent).free
    if free < plan.output_bytes:
        raise OutputError(
            f"{target.absolute().parent} has {free / 1e6:.0f} MB free, "
            f"the output may need {plan.output_bytes / 1e6:.0f} MB: free some or choose another"
        )


def plan_output(target: Path, plan: Plan, options: Options) -> Delivery:
    """Decide how the output is written, and what it will not have as the input has it.

    OptionError for an encoder, a pixel format or a container that cannot do what is asked.
    """
    return plan_delivery(plan.source, target, plan.geometry.width, plan.geometry.height, options)


def enhance(
    plan: Plan,
    target: Path,
    networks: Networks,
    options: Options,
    progress: Progress = silent,
    journal: Journal = NO_JOURNAL,
    fallbacks: Sequence[Plan] = (),
) -> Report:
    """Carry out `plan` and write `target`; if that fails, only `journal` keeps anything.

    A run that goes on from a journal's state gives the same bits as one that was not cut off.
    fallbacks: plans of the same windows, to go on with when the device runs out of memory
    """
    check_output(target, plan, options)
    start = time.perf_counter()
    with open_output(plan, target, options) as files:
        report = generate(plan, files, networks, options, progress, journal, fallbacks)
    wall = time.perf_counter() - start  # opening and finishing the output included
    return dataclasses.replace(report, output=target, wall=wall)


def generate(
    plan: Plan,
    output: Output,
    networks: Networks,
    options: Options,
    progress: Progress = silent,
    journal: Journal = NO_JOURNAL,
    fallbacks: Sequence[Plan] = (),
) -> Report:
    """Carry out `plan` and give its frames to `output`; other arguments as in `enhance`.

    Any exception that `output` or `progress` raises ends the run, for example `Cancelled`.
    """
    start = time.perf_counter()
    with torch.inference_mode():
        flow = Flow(plan, networks, options, progress)
        with closing(FrameSink(plan, output, journal)) as sink:
            run = RunWithFallback(flow, journal.load() or State(), sink, list(fallbacks))
            for frame in journal.frames():
                sink.write(frame)
            with behind(sink.leave, QUEUE) as leaving:
                run.run(leaving)
    wall = time.perf_counter() - start
    seconds = {**flow.watch.seconds, **sink.watch.seconds}
    return Report(flow.plan, None, wall, seconds, sink.seams())


@dataclass(slots=True)
class RunWithFallback:
    """Run of all window steps; one that runs out of memory is repeated with a fallback plan."""

    flow: Flow
    state: State
    sink: FrameSink
    fallbacks: list[Plan]
    pending: GeneratedFrames | None = None  # frames not all handed on yet
    left: int = 0  # frames of the model that were handed on

    def run(self, leaving: Behind[Frame]) -> None:
        self.left = self.state.frames
        while not self._is_done(leaving):
            self._shrink()

    def _is_done(self, leaving: Behind[Frame]) -> bool:
        """Run to the end; False if memory ran out, after moving the state off the device."""
        try:
            self._go_on(leaving)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not self.fallbacks:
                raise DeviceError(
                    f"out of memory with {self.flow.plan.arrangement.words}, the smallest plan of "
                    "these windows: take a smaller --window, or set --memory to what is free"
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
        journal = self.sink.journal
        if self.pending is not None:
            self._let_out(self.pending, leaving)
        with closing(self.flow.generated(self.state)) as generated_frames:
            for generated in generated_frames:
                self.state, self.pending = generated.state, generated
                self._let_out(generated, leaving)
                if journal.is_due():
                    leaving.flush()
                    journal.keep(self.state)

    def _let_out(self, generated: GeneratedFrames, leaving: Behind[Frame]) -> None:
        """Decode and hand on the frames that were not handed on before."""
        for number, frame in enumerate(self.flow.frames(generated), generated.first):
            if number == self.left:
                leaving.put(frame)
                self.left += 1
        self.pending = None

    def _shrink(self) -> None:
        """Switch to the next fallback plan."""
        plan = self.fallbacks.pop(0)
        self.flow.plan = plan
        self.sink.adopt(plan)
        logger.warning("out of memory: goes on with %s", plan.arrangement.words)
        gc.collect()
        torch.cuda.empty_cache()
