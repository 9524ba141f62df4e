"""Runs on networks that stay loaded: the Python API of the runtime, which the command uses too.

with Enhancer(Options(scale=2)) as enhancer:
    enhancer.enhance("first.mp4", "first_2x.mp4")
    enhancer.enhance("second.mp4", "second_2x.mp4", resume=True)
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import torch

from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.frames import QUEUE, Progress
from venhancer.pipeline.networks import Networks
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.queues import handed_on
from venhancer.pipeline.run import Report, silent
from venhancer.pipeline.state import Journal, NoJournal
from venhancer.planning.plan import Plan
from venhancer.video.writer import write_frames
from venhancer_rt.backends import Backend, Request, choose_backend, identity
from venhancer_rt.job import Job, folder_of, read_job
from venhancer_rt.journal import DiskJournal


class Enhancer:
    """Networks that are loaded once and enhance many clips, one after the other.

    options: of every run that names none of its own
    bundle: a folder made by `venhancer-export`, in place of PyTorch's networks
    uses_graphs: repeat work as CUDA graphs where that pays
    """

    def __init__(
        self,
        options: Options | None = None,
        *,
        bundle: Path | str | None = None,
        uses_graphs: bool = True,
    ) -> None:
        self.options = options or Options()
        self.bundle = None if bundle is None else Path(bundle)
        self.uses_graphs = uses_graphs
        self._key: object = None  # of the backend whose networks are loaded
        self._networks: Networks | None = None

    def __enter__(self) -> Enhancer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the networks; the next run loads them again."""
        self._key = self._networks = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def plan(self, source: Path | str, options: Options | None = None) -> Plan:
        """Plan a run without loading the networks; VEnhancerError for what the user can mend."""
        return choose_backend(self._request(source, options or self.options)).plan

    def prepare(
        self,
        source: Path | str,
        target: Path | str,
        options: Options | None = None,
        *,
        resume: bool = False,
    ) -> Run:
        """Plan a run to a file or a folder, and refuse what cannot be carried out.

        resume: go on from the job that an earlier run left beside `target`, if there is one
        """
        options, target = options or self.options, Path(target)
        job = read_job(folder_of(target))
        request = self._request(source, options, job if resume else None)
        backend = choose_backend(request)
        pipeline.check_output(target, backend.plan, options)
        return Run(self, backend, options, target, job, resume)

    def enhance(
        self,
        source: Path | str,
        target: Path | str,
        options: Options | None = None,
        *,
        resume: bool = False,
        progress: Progress = silent,
    ) -> Report:
        """Enhance a video file, or a folder of numbered PNG files, into `target`.

        resume: go on from the job of a run that was cut off, if there is one
        progress: called with a stage, what is done and the total; it may raise `Cancelled`
        """
        run = self.prepare(source, target, options, resume=resume)
        with run.open_journal() as journal:
            return run.carry_out(journal, progress)

    def frames(
        self,
        frames: Iterable[Frame],
        fps: Fraction | int = 24,
        options: Options | None = None,
        *,
        progress: Progress = silent,
    ) -> Iterator[Frame]:
        """Enhance frames in memory: uint8 H W 3 each, at a constant rate -> frames, one by one.

        The given frames lie on the disk, without loss, while the run lasts: it looks at them more
        than once. Of the result only a few frames are in memory at a time.
        """
        chosen = dataclasses.replace(options or self.options, input_fps=Fraction(fps))
        with TemporaryDirectory() as folder:
            write_frames(Path(folder) / "frames", frames, Fraction(fps))
            backend = choose_backend(self._request(Path(folder) / "frames", chosen))
            networks = self.networks(backend)

            def work(give: Callable[[Frame], None]) -> None:
                output = _Handed(give)
                pipeline.generate(
                    backend.plan, output, networks, chosen, progress, fallbacks=backend.fallbacks
                )

            with handed_on(work, QUEUE) as made:
                yield from made

    def networks(self, backend: Backend) -> Networks:
        """The backend's networks, loaded unless those of an earlier run serve it too."""
        if self._networks is None or self._key != backend.key:
            self.close()
            self._networks = backend.open()
            self._key = backend.key
        return self._networks

    def _request(self, source: Path | str, options: Options, job: Job | None = None) -> Request:
        return Request(
            source=Path(source),
            options=options,
            bundle=self.bundle,
            uses_graphs=self.uses_graphs,
            arrangement=None if job is None else job.arrangement,  # a run goes on as it began
        )


@dataclass(frozen=True, slots=True)
class _Handed:
    """An output that hands frames on."""

    give: Callable[[Frame], None]

    def add(self, frame: Frame, moment: Fraction) -> None:
        self.give(frame)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was planned and can be carried out."""

    enhancer: Enhancer
    backend: Backend
    options: Options
    target: Path
    job: Job | None  # of a run to the same target that was cut off
    is_resumed: bool  # whether the job is gone on with; else it is left alone

    @property
    def keeps_job(self) -> bool:
        """Whether it can be resumed when it is cut off: not where another job is left alone."""
        return self.job is None or self.is_resumed

    def open_journal(self) -> AbstractContextManager[Journal]:
        """What the run keeps; JobError where the job is of another run, or still under way."""
        if not self.keeps_job:
            return nullcontext(NoJournal())
        identify = partial(identity, self.backend, self.options)
        journal = DiskJournal(self.target, self.backend.plan, identify)
        journal.resume()
        return journal

    def carry_out(self, journal: Journal, progress: Progress = silent) -> Report:
        """Load the networks, unless they are there, and write the target."""
        networks = self.enhancer.networks(self.backend)
        return pipeline.enhance(
            self.backend.plan,
            self.target,
            networks,
            self.options,
            progress,
            journal,
            self.backend.fallbacks,
        )
