"""Runs on networks that stay loaded: the Python API of the runtime, which the command uses too.

with Enhancer(Options(scale=2)) as enhancer:
    enhancer.enhance("first.mp4", "first_2x.mp4")
    enhancer.enhance("second.mp4", "second_2x.mp4", resume=True)
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from types import TracebackType

import torch

from venhancer.errors import OptionError, VEnhancerError
from venhancer.options import Options, parse_rate
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.frames import QUEUE, Progress
from venhancer.pipeline.networks import Networks
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.queues import Giver, handed_on
from venhancer.pipeline.run import Report, silent
from venhancer.pipeline.state import Journal
from venhancer.planning.fitting import Limits
from venhancer.planning.plan import Plan
from venhancer.video.delivery import Delivery
from venhancer.video.writer import write_frames
from venhancer_rt.backends import Backend, Request, choose_backend, identity
from venhancer_rt.job import Job, folder_of, read_job, refuse_running
from venhancer_rt.journal import DiskJournal, locked


def enhance(
    source: Path | str,
    target: Path | str,
    options: Options | None = None,
    *,
    bundle: Path | str | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Report:
    """Enhance one clip and free the networks; arguments as in `Enhancer`."""
    with Enhancer(options, bundle=bundle) as enhancer:
        return enhancer.enhance(source, target, resume=resume, progress=progress)


class Enhancer:
    """Networks that are loaded once and enhance many clips, one after the other.

    options: used by every run that is given none of its own
    bundle: a folder made by `venhancer-export`, in place of PyTorch's networks
    uses_graphs: repeat work as CUDA graphs where that pays off
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
        self._limits = Limits()
        self._key: object = None  # of the backend whose networks are loaded
        self._networks: Networks | None = None
        self._busy = Lock()  # held while a run uses them

    def __enter__(self) -> Enhancer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except RuntimeError:  # the device has failed: the error that led here is the one to raise
            if error is None:
                raise

    def close(self) -> None:
        """Free the networks; the next run loads them again."""
        self._key = self._networks = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def plan(
        self,
        source: Path | str,
        options: Options | None = None,
        target: Path | str | None = None,
    ) -> Plan:
        """Plan a run without loading the networks; VEnhancerError for what the user can fix.

        target: of the run, which need not be writable; None for frames in memory
        """
        wanted = None if target is None else Path(target)
        return choose_backend(self._request(source, options or self.options, wanted)).plan

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
        refuse_running(target)
        job = read_job(folder_of(target))
        request = self._request(source, options, target, job if resume else None)
        backend = choose_backend(request)
        pipeline.check_output(target, backend.plan, options)
        delivery = pipeline.plan_output(target, backend.plan, options)
        return Run(self, backend, options, target, job, resume, delivery)

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
        fps: Fraction | float = 24,
        options: Options | None = None,
        *,
        progress: Progress = silent,
    ) -> Iterator[Frame]:
        """Enhance frames in memory: H W 3 each, at a constant rate -> frames, one by one.

        All are uint8, or all are uint16 over the whole range; so are those of the result.
        The given frames are stored on the disk, without loss, during the run, which reads them more
        than once. Only a few frames of the result are in memory at a time. The run is in a thread
        of its own, which also calls `progress`, until the iterator ends or is closed.
        """
        rate = fps if isinstance(fps, Fraction) else parse_rate(f"{fps:g}")
        chosen = dataclasses.replace(options or self.options, input_fps=rate)
        if chosen.compare is not None:
            raise OptionError("compare: frames in memory are written nowhere; leave it out")
        return self._frames(frames, rate, chosen, progress)

    def _frames(
        self, frames: Iterable[Frame], rate: Fraction, options: Options, progress: Progress
    ) -> Iterator[Frame]:
        with TemporaryDirectory() as folder:
            source = Path(folder) / "frames"
            write_frames(source, frames, rate)
            backend = choose_backend(self._request(source, options))

            def work(give: Giver[Frame]) -> None:
                def told(stage: str, done: int, total: int) -> None:
                    give.check()
                    progress(stage, done, total)

                plans = backend.plan, backend.fallbacks
                pipeline.generate(
                    plans[0], _Handed(give), networks, options, told, fallbacks=plans[1]
                )

            with self.networks(backend) as networks, handed_on(work, QUEUE) as made:
                yield from made

    @contextmanager
    def networks(self, backend: Backend) -> Iterator[Networks]:
        """Lend the backend's networks to one run; load them unless an earlier run's can be used.

        BusyError if another run of this object has not ended.
        """
        if not self._busy.acquire(blocking=False):
            raise BusyError(
                "another run of this Enhancer has not ended: wait for it, or make another Enhancer"
            )
        try:
            key = backend.key()
            if self._networks is None or self._key != key:
                self.close()
                self._networks, self._key = backend.open(), key
            yield self._networks
        finally:
            self._busy.release()

    def _request(
        self,
        source: Path | str,
        options: Options,
        target: Path | None = None,
        job: Job | None = None,
    ) -> Request:
        return Request(
            source=Path(source),
            target=target,
            options=options,
            bundle=self.bundle,
            uses_graphs=self.uses_graphs,
            arrangement=None if job is None else job.arrangement,  # kept when a run is resumed
            limits=self._limits,
        )


class BusyError(VEnhancerError):
    """Networks that another run is using."""


@dataclass(frozen=True, slots=True)
class _Handed:
    """Output that hands frames on."""

    give: Callable[[Frame], None]

    def add(self, frame: Frame, moment: Fraction) -> None:
        self.give(frame)


@dataclass(frozen=True, slots=True)
class Run:
    """Run that was planned and can be carried out."""

    enhancer: Enhancer
    backend: Backend
    options: Options
    target: Path
    job: Job | None  # of a run to the same target that was cut off
    is_resumed: bool  # True to go on from the job; False to leave it unchanged
    delivery: Delivery

    @property
    def keeps_job(self) -> bool:
        """True if this run keeps a job; False if it must leave another run's job unchanged."""
        return self.job is None or self.is_resumed

    def open_journal(self) -> AbstractContextManager[Journal]:
        """Open the run's journal, which locks its output against other runs.

        JobError if the job is of another run, or if another run writes the output.
        """
        if not self.is_resumed and read_job(folder_of(self.target)) is not None:
            return locked(self.target)
        identify = partial(identity, self.backend, self.options)
        journal = DiskJournal(self.target, self.backend.plan, identify)
        journal.resume()
        return journal

    def carry_out(self, journal: Journal, progress: Progress = silent) -> Report:
        """Load the networks, unless they are loaded, and write the target."""
        with self.enhancer.networks(self.backend) as networks:
            return pipeline.enhance(
                self.backend.plan,
                self.target,
                networks,
                self.options,
                progress,
                journal,
                self.backend.fallbacks,
            )
