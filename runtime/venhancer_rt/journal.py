"""Journal on disk: a run keeps a job, from which another run can go on with `--resume`.

The files of a job (`job.py`) are written whole, and the older state is removed when the newer one
is complete. Writing states takes at most `SHARE` of a run's time. Frames are kept by the thread
that writes, while the network works. A run holds the lock of its job's folder from its beginning to
its end, so that no other run writes the same output.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from errno import ENOSPC
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from venhancer.files import hash_file, try_lock, write_text, written_whole
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.state import NoJournal, State
from venhancer.planning.plan import Plan
from venhancer_rt import frame_store
from venhancer_rt.frame_store import FrameStore
from venhancer_rt.job import (
    FORMAT,
    JOB,
    LOCK,
    Job,
    JobError,
    folder_of,
    keep_name,
    read_job,
    refuse_other,
    refuse_unreadable,
)

logger = logging.getLogger(__name__)

SHARE = 0.05  # of a run's time
SHORTEST_WAIT = 30.0  # seconds between two states
TRIES, PAUSE = 5, 0.02  # at the lock, which a look at a job holds for a moment; seconds between


class DiskJournal:
    """`Journal` in a folder beside the output; as a context, it removes the folder on success.

    identify: describes all that the frames of a plan depend on, by words that a user knows
    """

    def __init__(
        self, target: Path, plan: Plan, identify: Callable[[Plan], Mapping[str, str]]
    ) -> None:
        self.target = target
        self.folder = folder_of(target)
        self.identify = identify
        self.adopt(plan)
        self.job: Job | None = None
        self.store: FrameStore | None = None
        self.lock: IO[bytes] | None = None  # released when the process ends, however it ends
        self.is_kept = True
        self.due = time.monotonic() + SHORTEST_WAIT

    def adopt(self, plan: Plan) -> None:
        """Switch to the states of another plan."""
        self.plan = plan
        self.identity = dict(self.identify(plan))

    def resume(self) -> Job | None:
        """Lock the job's folder and find the job to go on from, if there is one.

        JobError if it is another run's, or if another process is at work on the output.
        """
        with self._or_without():
            self.lock = take_lock(self.target)
        try:
            self.job = self._find_job()
        except BaseException:
            self._unlock()
            raise
        return self.job

    def _find_job(self) -> Job | None:
        job = read_job(self.folder)
        if job is None:
            refuse_unreadable(self.folder)
            return None
        refuse_other(job, self.identity)
        return job

    def _unlock(self) -> None:
        if self.lock is not None:
            self.lock.close()
            self.lock = None

    def load(self) -> State | None:
        """Load the state of the job that `resume` found; None without one."""
        if self.job is None:
            return None
        try:
            is_whole = hash_file(self.job.state) == self.job.digest
            tensors = load_file(self.job.state) if is_whole else {}
        except (SafetensorError, OSError):
            is_whole = False
        if not is_whole:
            raise JobError(f"{self.job.state} is cut short or changed: remove {self.folder}")
        return State(self.job.scene, self.job.window_steps, self.job.frames, tensors)

    def frames(self) -> Iterator[Frame]:
        """Read the frames that had left before that state."""
        if self.job is None:
            return iter(())
        return frame_store.read(self.folder, self.job.pieces, self.job.frames)

    def add(self, frame: Frame) -> None:
        """Keep a frame that leaves; if that fails, the run goes on without a job."""
        if not self.is_kept:
            return
        with self._or_without():
            self._check_disk(frame)
            if self.store is None:
                pieces, frames = (self.job.pieces, self.job.frames) if self.job else ((), 0)
                self.store = FrameStore(self.folder, pieces=pieces, frames=frames)
            self.store.add(frame)

    def _check_disk(self, frame: Frame) -> None:
        """Raise OSError before kept frames take the disk space that the output needs."""
        free = shutil.disk_usage(self.folder.parent).free
        if free < self.plan.output_bytes + frame.nbytes:
            raise OSError(ENOSPC, f"{free / 1e6:.0f} MB are free, which the output may need")

    def is_due(self) -> bool:
        return self.is_kept and time.monotonic() >= self.due

    def keep(self, state: State) -> None:
        if not self.is_kept:  # keeping a frame has failed since `is_due`
            return
        start = time.monotonic()
        with self._or_without():
            self._write(state)
        now = time.monotonic()
        self.due = now + max(SHORTEST_WAIT, (now - start) / SHARE)

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            self.is_kept = False
            logger.warning("no state can be kept in %s, the run goes on: %s", self.folder, error)
            self._drop_frames()

    def _drop_frames(self) -> None:
        """Free the disk space of frames that no state needs."""
        if self.store is not None:
            self.store.close()
            self.store = None
        if self.lock is not None and read_job(self.folder) is None:
            for path in self.folder.glob("frames-*"):
                path.unlink(missing_ok=True)

    def _write(self, state: State) -> None:
        """Write the latents and settle the frames, then write `job.json`, then drop old states."""
        steps = [self.plan.window_steps_of(scene) for scene in self.plan.scenes]
        done = sum(steps[: state.scene]) + state.window_steps
        name = f"state-{done}.safetensors"
        tensors = {k: x.contiguous().cpu() for k, x in state.tensors.items()}
        with written_whole(self.folder / name, is_durable=True) as temporary:
            save_file(tensors, temporary)
            digest = hash_file(temporary)
        job = {
            "format": FORMAT,
            "digest": digest,
            "identity": self.identity,
            "arrangement": asdict(self.plan.arrangement),
            "scene": state.scene,
            "window_steps": state.window_steps,
            "done": done,
            "total": sum(steps),
            "frames": state.frames,
            "pieces": self._pieces(),
        }
        write_text(self.folder / JOB, json.dumps(job, indent=1), is_durable=True)
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _pieces(self) -> tuple[str, ...]:
        if self.store is not None:
            return self.store.settle()
        return self.job.pieces if self.job else ()

    def __enter__(self) -> DiskJournal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the folder if the run succeeded, or if it has no job to go on from."""
        if self.store is not None:
            self.store.close()
        if self.lock is None:
            return
        if kind is None or read_job(self.folder) is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._unlock()


def take_lock(target: Path) -> IO[bytes]:
    """Lock the folder of an output's job, and make it if there is none.

    JobError if another process holds it, OSError if the disk refuses.
    """
    folder = folder_of(target)
    for _ in range(TRIES):
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # a run that ends has just removed the folder
            lock = try_lock(folder / LOCK)
            if lock is not None:
                _tidy(target)
                return lock
        time.sleep(PAUSE)
    raise JobError(f"another process is at work on {target}: wait for it")


def _tidy(target: Path) -> None:
    """Remove what a process that was killed had half written, and keep the output's name."""
    for left in folder_of(target).glob(".*.part"):
        left.unlink()
    keep_name(target)


@contextmanager
def locked(target: Path) -> Iterator[NoJournal]:
    """Hold the lock of a job for a run that leaves it unchanged and keeps none of its own."""
    lock = take_lock(target)
    try:
        yield NoJournal()
    finally:
        if not (folder_of(target) / JOB).exists():  # its run has ended just before
            shutil.rmtree(folder_of(target), ignore_errors=True)
        lock.close()
