"""States of runs that were cut off: kept beside the output, taken up again with `--resume`.

A state lies in `.NAME.venhancer-job`: `job.json` says which run it is of, `state-N.safetensors`
holds the latents after N steps. Both appear whole; the older state goes when the newer one is
there. Saving takes at most `SHARE` of a run's time, but the end of sampling is kept all the same,
unless the run is shorter than `SHORTEST_WAIT`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from venhancer.errors import VEnhancerError
from venhancer.state import SolverState

logger = logging.getLogger(__name__)

SUFFIX = ".venhancer-job"
JOB = "job.json"
SHARE = 0.05
SHORTEST_WAIT = 10.0  # seconds between two states
ENDS = 1 << 20  # bytes at either end of a file that are looked at


class JobError(VEnhancerError):
    """A state that belongs to another run, or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run that was cut off."""

    folder: Path
    identity: Mapping[str, str]
    step: int
    steps: int

    @property
    def target(self) -> Path:
        return self.folder.with_name(self.folder.name.removeprefix(".").removesuffix(SUFFIX))

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @property
    def is_running(self) -> bool:
        lock = _lock(self.folder)
        if lock is not None:
            lock.close()
        return lock is None

    @property
    def state(self) -> Path:
        return self.folder / f"state-{self.step}.safetensors"


def folder_of(target: Path) -> Path:
    return target.absolute().with_name(f".{target.name}{SUFFIX}")


def find_jobs(folder: Path) -> list[Job]:
    """Every state in a folder, by name; one that cannot be read is left out."""
    found = (read_job(path) for path in sorted(folder.glob(f".*{SUFFIX}")))
    return [job for job in found if job is not None]


def clean(folder: Path) -> list[str]:
    """Remove every state in a folder but those of runs that are under way; the outputs' names."""
    gone = []
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        lock = _lock(path)
        if lock is not None:
            shutil.rmtree(path)
            lock.close()
            gone.append(path.name.removeprefix(".").removesuffix(SUFFIX))
    return gone


def read_job(folder: Path) -> Job | None:
    """The state in `folder`; None where there is none that is whole."""
    try:
        fields = json.loads((folder / JOB).read_text(encoding="utf-8"))
        job = Job(folder=folder, **fields)
    except (OSError, ValueError, TypeError):
        return None
    return job if job.state.is_file() else None


def refuse_other(job: Job, identity: Mapping[str, str]) -> None:
    """JobError names what the state was made with, where that is not what is asked for now."""
    names = [n for n in {**job.identity, **identity} if job.identity.get(n) != identity.get(n)]
    if names:
        told = "; ".join(
            f"{name} was {_short(job.identity.get(name))}, is {_short(identity.get(name))}"
            for name in names
        )
        raise JobError(
            f"the state of {job.target.name} is of another run: {told}. Ask for the same, or drop "
            f"it: venhancer-rt jobs {job.folder.parent} --clean"
        )


def _short(text: str | None) -> str:
    return "not there" if text is None else text if len(text) <= 60 else f"{text[:57]}..."


class DiskJournal:
    """A `Journal` in a folder beside the output."""

    def __init__(self, target: Path, identity: Mapping[str, str], steps: int) -> None:
        self.target = target
        self.folder = folder_of(target)
        self.identity = dict(identity)
        self.steps = steps
        self.job: Job | None = None
        self.lock: IO[bytes] | None = None  # held while the run lives, and released by its death
        self.is_kept = True
        self.started = time.monotonic()
        self.due = self.started + SHORTEST_WAIT

    def resume(self) -> Job | None:
        """Find the state to go on from; JobError where it is another run's, or still running."""
        job = read_job(self.folder)
        if job is not None:
            refuse_other(job, self.identity)
            self._take()
        self.job = job
        return job

    def _take(self) -> None:
        if self.lock is None:
            self.folder.mkdir(exist_ok=True)
            self.lock = _lock(self.folder)
        if self.lock is None:
            raise JobError(f"another process is at work on {self.target}: wait for it")

    def load(self) -> SolverState | None:
        """The latents of the job that `resume` found."""
        if self.job is None:
            return None
        try:
            tensors = load_file(self.job.state)
            x, previous = tensors["x"].clone(), tensors["previous"].clone()
        except (SafetensorError, KeyError, OSError) as error:
            raise JobError(
                f"{self.job.state} is cut short or changed: drop it with "
                f"venhancer-rt jobs {self.folder.parent} --clean"
            ) from error
        return SolverState(x, previous, self.job.step)

    def keep(self, state: SolverState, *, is_last: bool) -> None:
        start = time.monotonic()
        due = self.started + SHORTEST_WAIT if is_last else self.due
        if not self.is_kept or start < due:
            return
        try:
            self._write(state)
        except (OSError, SafetensorError, JobError) as error:
            self.is_kept = False
            logger.warning("no state can be kept in %s, the run goes on: %s", self.folder, error)
        now = time.monotonic()
        self.due = now + max(SHORTEST_WAIT, (now - start) / SHARE)

    def _write(self, state: SolverState) -> None:
        """First the latents, then the word that they are there; then the older ones go."""
        self._take()
        name = f"state-{state.step}.safetensors"
        temporary = self.folder / "state.part"
        save_file({"x": state.x.contiguous(), "previous": state.previous.contiguous()}, temporary)
        _settle(temporary, self.folder / name)
        job = {"identity": self.identity, "step": state.step, "steps": self.steps}
        temporary = self.folder / "job.part"
        temporary.write_text(json.dumps(job, indent=1), encoding="utf-8")
        _settle(temporary, self.folder / JOB)
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def finish(self) -> None:
        """The output is complete: the state goes."""
        if self.lock is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.lock.close()


def _settle(temporary: Path, final: Path) -> None:
    """Rename when the bytes are on the disk, so that no crash leaves a name without them."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(final)


def _lock(folder: Path) -> IO[bytes] | None:
    """An open file that only one process holds at a time; None where another one does."""
    file = (folder / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def fingerprint(path: Path) -> str:
    """Size and both ends of a file, hashed; of a folder, its names and sizes."""
    digest = hashlib.sha256()
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            digest.update(f"{entry.name} {entry.stat().st_size}\n".encode())
        return digest.hexdigest()[:16]
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(ENDS))
        file.seek(max(0, size - ENDS))
        digest.update(file.read(ENDS))
    return digest.hexdigest()[:16]
