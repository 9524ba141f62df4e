"""From file to file: the whole flow, written once over four functions that a backend provides."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from venhancer import conditioning
from venhancer.compare import Comparison, check_comparison
from venhancer.conditioning import Conditions, Frame
from venhancer.errors import OutputError
from venhancer.options import Options
from venhancer.plan import Plan, Sampling
from venhancer.seams import NO_SEAMS, SeamMeter, Seams
from venhancer.state import Journal, NoJournal, SolverState
from venhancer.video import read_frames
from venhancer.video_writer import FolderWriter, VideoWriter, check_target, open_writer

Progress = Callable[[str, int, int], None]  # stage, parts done, parts in all
NO_JOURNAL = NoJournal()


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


class Networks(Protocol):
    """What a backend does. Frames: f 3 H W in [-1, 1]; latents: f c h w, float32, on the CPU."""

    decode_chunk: int  # frames that `decode` takes at a time

    def encode_text(self, prompt: str, *, is_guided: bool) -> Tensor | None:
        """Prompt, then (guided) the negative prompt: 2 l d or 1 l d; None without text encoder."""

    def encode(self, frames: Tensor, first: int) -> Tensor:
        """Latents of key frames `first` and following."""

    def sample(
        self,
        state: SolverState,
        conditions: Conditions,
        sampling: Sampling,
        progress: Progress,
        journal: Journal,
    ) -> Tensor:
        """x_0 of the whole grid, from where `state` stands; its memory is used up."""

    def decode(self, latents: Tensor) -> Tensor:
        """Frames of neighbouring latents."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did."""

    plan: Plan
    output: Path
    seconds: dict[str, float] = field(default_factory=dict)  # per stage
    seams: Seams = NO_SEAMS


class Stopwatch:
    """Seconds per stage; a stage may be entered many times."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


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
    watch = Stopwatch()
    with open_output(plan, target, options) as output, torch.inference_mode():
        latents = sampled(plan, networks, options, watch, progress, journal)
        meter = SeamMeter(plan)
        write(decoded(plan, latents, networks, watch, meter), plan, output, watch, progress)
    return Report(plan, target, watch.seconds, meter.seams())


def sampled(
    plan: Plan,
    networks: Networks,
    options: Options,
    watch: Stopwatch,
    progress: Progress,
    journal: Journal,
) -> Tensor:
    """x_0 of the whole grid: f c h w, from the beginning or from the journal's state."""
    state = journal.load()
    if state is not None and state.step == len(plan.sampling.schedule):
        return state.x
    with watch("prompt"):
        text = networks.encode_text(options.prompt, is_guided=plan.branches == 2)
    keys = encode_keys(plan, networks, options, watch, progress)
    with watch("noise"):
        conditions = show_to_controller(plan, keys, text)
        if state is None:
            state = SolverState.begin(start_from(plan, keys), plan.sampling)
    del keys
    with watch("denoise"):
        return networks.sample(state, conditions, plan.sampling, progress, journal)


def encode_keys(
    plan: Plan, networks: Networks, options: Options, watch: Stopwatch, progress: Progress
) -> Tensor:
    """Read, resize, pad and encode the input frames, one at a time -> k c h w."""
    geometry, total = plan.geometry, plan.source.frames
    upsampling = plan.preset.model.upsampling
    keys = torch.empty(total, *plan.latents)
    frames = read_frames(plan.source)
    for i in range(total):
        with watch("read"):
            frame = next(frames)
        with watch("encode"):
            pixels = conditioning.resize(frame, geometry.width, geometry.height, upsampling)
            padded = conditioning.pad(pixels, geometry, options.padding)
            keys[i] = networks.encode(padded, first=i)[0]
        progress("encode", i + 1, total)
    return keys


def show_to_controller(plan: Plan, keys: Tensor, text: Tensor | None) -> Conditions:
    """Key frames k c h w, noised as the plan says."""
    gap, seed = plan.timeline.gap, plan.sampling.seed
    return Conditions(
        hint=conditioning.noisy_hint(keys, plan.refine, gap, seed),
        gap=gap,
        noise_level=max(plan.refine - 1, 0),
        scale=plan.scale,
        text=text,
    )


def start_from(plan: Plan, keys: Tensor) -> Tensor:
    """Where sampling starts: key frames k c h w -> f c h w, diffused."""
    timeline = plan.timeline
    return conditioning.noisy_start(keys, timeline.grid_frames, timeline.gap, plan.sampling.seed)


@dataclass(frozen=True, slots=True)
class Files:
    """The output, and the comparison beside it."""

    writer: VideoWriter | FolderWriter
    comparison: Comparison | None

    def add(self, frame: Frame, moment: Fraction) -> None:
        self.writer.write(frame, moment)
        if self.comparison is not None:
            self.comparison.add(frame)


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


def write(
    frames: Iterator[Frame], plan: Plan, output: Files, watch: Stopwatch, progress: Progress
) -> None:
    """Write every shown frame."""
    times = plan.timeline.times
    for i, (frame, moment) in enumerate(zip(frames, times, strict=True)):
        with watch("write"):
            output.add(frame, moment)
        progress("decode", i + 1, len(times))


def decoded(
    plan: Plan, latents: Tensor, networks: Networks, watch: Stopwatch, meter: SeamMeter
) -> Iterator[Frame]:
    """The shown frames in order, cropped: H W 3, uint8; the grid is decoded chunk by chunk."""
    shown = iter(plan.timeline.shown)
    wanted = next(shown)
    for first in range(0, len(latents), networks.decode_chunk):
        with watch("decode"):
            chunk = networks.decode(latents[first : first + networks.decode_chunk])
            pixels = conditioning.to_pixels(conditioning.crop(chunk, plan.geometry))
        if plan.parts > 1:
            with watch("seams"):
                for frame in pixels:
                    meter.add(frame)
        while first <= wanted < first + len(pixels):
            yield pixels[wanted - first]
            following = next(shown, None)
            if following is None:
                return
            wanted = following
