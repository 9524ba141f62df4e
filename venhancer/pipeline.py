"""From file to file: the whole flow, written once over four functions that a backend provides.

Frames are read ahead and written behind by a thread each; what is between them is bounded.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from venhancer import conditioning
from venhancer.compare import Comparison, check_comparison
from venhancer.conditioning import Frame
from venhancer.errors import OutputError
from venhancer.options import Options
from venhancer.plan import Plan
from venhancer.queues import ahead, behind
from venhancer.seams import NO_SEAMS, SeamMeter, Seams
from venhancer.state import Journal, NoJournal, State
from venhancer.stopwatch import Stopwatch
from venhancer.video import read_frames
from venhancer.video_writer import FolderWriter, VideoWriter, check_target, open_writer
from venhancer.windows import Scene

Progress = Callable[[str, int, int], None]  # stage, parts done, parts in all
NO_JOURNAL = NoJournal()
QUEUE = 4  # frames that are read ahead, and that wait to be written


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


class SceneSampler(Protocol):
    """`venhancer.sampler.Sampler`, or what stands for it."""

    def first_key(self, scene: Scene, taken: int) -> int:
        """The first key frame of a scene that is still to be shown after `taken` turns."""

    def run(
        self, scene: Scene, keys: Iterator[Tensor], taken: int, progress: Callable[[], None]
    ) -> Iterator[Tensor]:
        """After every turn the x_0 (f c h w) that are done now, none or some."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What a state has to hold between two turns."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""


class Networks(Protocol):
    """What a backend does. Frames: f 3 H W in [-1, 1]; latents: f c h w, float32."""

    decode_chunk: int  # frames that `decode` takes at a time

    def encode_text(self, prompt: str, *, is_guided: bool) -> Tensor | None:
        """Prompt, then (guided) the negative prompt: 2 l d or 1 l d; None without text encoder."""

    def encode(self, frames: Tensor, first: int) -> Tensor:
        """Latents of key frames `first` and following."""

    def sampler(self, plan: Plan, text: Tensor | None) -> SceneSampler:
        """Ready for the plan's scenes, one after the other."""

    def decode(self, latents: Tensor) -> Tensor:
        """Frames of neighbouring latents."""


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
) -> Report:
    """Carry out `plan` and write `target`; nothing is left behind if it fails, but in `journal`.

    A run that goes on from a journal's state gives the same bits as one that was not cut off.
    """
    check_output(target, plan, options)
    start, watch = time.perf_counter(), Stopwatch()
    with open_output(plan, target, options) as files, torch.inference_mode():
        outlet = Outlet(plan, files, journal)
        flow = Flow(plan, networks, options, progress, journal, watch)
        state = journal.load() or State()
        for frame in journal.frames():
            outlet.write(frame)
        with behind(outlet.leave, QUEUE) as leaving:
            for turn in flow.turns(state):
                for frame in turn.frames:
                    leaving.put(frame)
                progress("decode", turn.state.frames, plan.timeline.grid_frames)
                if journal.is_due():
                    leaving.flush()
                    journal.keep(turn.state)
    wall = time.perf_counter() - start
    return Report(plan, target, wall, {**watch.seconds, **outlet.watch.seconds}, outlet.seams())


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn of the sampler led to: frames of the grid, and where the run stands then."""

    frames: Iterator[Frame]  # decoded as they are taken
    state: State


@dataclass(slots=True)
class Flow:
    """Read, prepare, encode, denoise, decode: the part of a run that makes frames."""

    plan: Plan
    networks: Networks
    options: Options
    progress: Progress
    journal: Journal
    watch: Stopwatch
    evaluations: int = 0  # so far

    def turns(self, state: State) -> Iterator[Turn]:
        """All that is left to do after `state`."""
        scenes = self.plan.scenes[state.scene :]
        if not scenes:
            return
        with self.watch("prompt"):
            text = self.networks.encode_text(self.options.prompt, is_guided=self.plan.branches == 2)
        sampler = self.networks.sampler(self.plan, text)
        if state.turns:
            sampler.restore(state.tensors)
        first = scenes[0].keys.start + sampler.first_key(scenes[0], state.turns)
        self._count(state)
        with ahead(read_frames(self.plan.source, first), QUEUE) as frames:
            keys = self._keys(frames, first)
            for number, scene in enumerate(scenes, state.scene):
                for turn in self._scene(number, scene, sampler, keys, state):
                    yield turn
                    state = turn.state

    def _count(self, state: State) -> None:
        """Evaluations that an earlier run has made."""
        plan = self.plan
        before = sum(len(scene.windows) for scene in plan.scenes[: state.scene])
        turns = before * len(plan.sampling.schedule) + state.turns
        self.evaluations = turns * len(plan.sampling.rows) * len(plan.sampling.columns)

    def _keys(self, frames: Iterator[Frame], first: int) -> Iterator[Tensor]:
        """Resize, pad and encode the input frames, one at a time -> c h w."""
        plan = self.plan
        geometry, upsampling = plan.geometry, plan.preset.model.upsampling
        for i in range(first, plan.source.frames):
            with self.watch("read"):
                frame = next(frames)
            with self.watch("encode"):
                pixels = conditioning.resize(frame, geometry.width, geometry.height, upsampling)
                padded = conditioning.pad(pixels, geometry, self.options.padding)
                latents = self.networks.encode(padded, first=i)[0]
            self.progress("encode", i + 1, plan.source.frames)
            yield latents

    def _scene(
        self,
        number: int,
        scene: Scene,
        sampler: SceneSampler,
        keys: Iterator[Tensor],
        state: State,
    ) -> Iterator[Turn]:
        """The turns of a scene that `state` has not seen."""
        last = len(scene.windows) * len(self.plan.sampling.schedule)
        left = state.frames
        turns = sampler.run(scene, keys, state.turns, self._evaluated)
        for taken in range(state.turns + 1, last + 1):
            with self.watch("denoise"):
                latents = next(turns)
            is_end = taken == last
            is_cut = is_end and number + 1 < len(self.plan.scenes)
            held = scene.gap - 1 if is_cut else 0  # the last frame is shown up to the cut
            left += len(latents) + held
            after = State(number, taken, left, sampler.tensors())
            yield Turn(self._decode(latents, held), State(number + 1, 0, left) if is_end else after)

    def _evaluated(self) -> None:
        self.evaluations += 1
        total = self.plan.parts * len(self.plan.sampling.schedule)
        self.progress("denoise", self.evaluations, total)

    def _decode(self, latents: Tensor, held: int) -> Iterator[Frame]:
        """Cropped: H W 3 each; the last one `held` times more."""
        frame: Frame | None = None
        for part in latents.split(self.networks.decode_chunk) if len(latents) else ():
            with self.watch("decode"):
                pixels = conditioning.crop(self.networks.decode(part), self.plan.geometry)
                frames = conditioning.to_pixels(pixels)
            for frame in frames:
                yield frame
        if frame is not None:
            yield from repeat(frame, held)


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
    """Where frames of the grid leave, in order: seams are measured, shown ones are written."""

    def __init__(self, plan: Plan, files: Files, journal: Journal) -> None:
        self.files = files
        self.journal = journal
        self.watch = Stopwatch()
        self.meter = SeamMeter(plan) if plan.parts > len(plan.scenes) else None
        self.shown = list(zip(plan.timeline.shown, plan.timeline.times, strict=True))[::-1]
        self.count = 0

    def leave(self, frame: Frame) -> None:
        """A new frame: the journal has it first."""
        with self.watch("keep"):
            self.journal.add(frame)
        self.write(frame)

    def write(self, frame: Frame) -> None:
        """H W 3, as often as it is shown."""
        if self.meter is not None:
            with self.watch("seams"):
                self.meter.add(frame)
        while self.shown and self.shown[-1][0] == self.count:
            with self.watch("write"):
                self.files.add(frame, self.shown.pop()[1])
        self.count += 1

    def seams(self) -> Seams:
        return NO_SEAMS if self.meter is None else self.meter.seams()


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
