"""States of runs that were cut off: kept beside the output, taken up again with `--resume`.

A state lies in `.NAME.venhancer-job`: `job.json` says which run it is of, `state-N.safetensors`
holds the latents after N turns of the sampler, `frames-*` the frames that have left by then. All
appear whole; the older state goes when the newer one is there. Writing states takes at most `SHARE`
of a run's time; frames are kept beside the network's work, by the thread that writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from venhancer.conditioning import Frame
from venhancer.errors import VEnhancerError
from venhancer.plan import Plan
from venhancer.state import State
from venhancer.video_target import sweep_folder
from venhancer_rt import spool
from venhancer_rt.spool import Spool

logger = logging.getLogger(__name__)

SUFFIX = ".venhancer-job"
JOB = "job.json"
SHARE = 0.05
SHORTEST_WAIT = 30.0  # seconds between two states
ENDS = 1 << 20  # bytes at either end of a file that are looked at


class JobError(VEnhancerError):
    """A state that belongs to another run, or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run that was cut off."""

    folder: Path
    identity: Mapping[str, str]
    arrangement: str  # how it fitted into memory
    scene: int
    turns: int  # of the sampler, in this scene
    done: int  # turns in all
    total: int
    frames: int  # of those that the model makes, that have left
    pieces: tuple[str, ...]  # files that hold them
    digest: str  # of the latents' file

    @property
    def target(self) -> Path:
        return self.folder.with_name(_target_name(self.folder))

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @property
    def is_running(self) -> bool:
        try:
            lock = _lock(self.folder)
        except OSError:  # a place where nothing can be written
            return False
        if lock is not None:
            lock.close()
        return lock is None

    @property
    def state(self) -> Path:
        return self.folder / f"state-{self.done}.safetensors"

    @property
    def stand(self) -> str:
        """Its progress, in words."""
        return f"{100 * self.done // self.total} % ({self.frames} frames)"


def folder_of(target: Path) -> Path:
    return target.absolute().with_name(f".{target.name}{SUFFIX}")


def find_jobs(folder: Path) -> list[Job]:
    """Every state in a folder, by name; one that cannot be read is left out."""
    found = (read_job(path) for path in sorted(folder.glob(f".*{SUFFIX}")))
    return [job for job in found if job is not None]


def find_leftovers(folder: Path) -> list[str]:
    """Outputs of runs that were killed before their first state: their frames take disk."""
    folders = sorted(folder.glob(f".*{SUFFIX}"))
    return [_target_name(path) for path in folders if read_job(path) is None]


def _target_name(folder: Path) -> str:
    return folder.name.removeprefix(".").removesuffix(SUFFIX)


def clean(folder: Path) -> list[str]:
    """Remove every state in a folder but those of runs that are under way; the outputs' names.

    Half-written outputs of processes that were killed go too.
    """
    gone = []
    sweep_folder(folder)
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        lock = _lock(path)
        if lock is not None:
            shutil.rmtree(path)
            lock.close()
            gone.append(_target_name(path))
    return gone


def read_job(folder: Path) -> Job | None:
    """The state in `folder`; None where there is none, or none that is whole."""
    try:
        fields = json.loads((folder / JOB).read_text(encoding="utf-8"))
        counts = ("scene", "turns", "done", "total", "frames")
        job = Job(
            folder=folder,
            identity={str(name): str(value) for name, value in fields["identity"].items()},
            arrangement=str(fields["arrangement"]),
            pieces=tuple(map(str, fields["pieces"])),
            digest=str(fields["digest"]),
            **{name: int(fields[name]) for name in counts},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return job if job.state.is_file() and job.total > 0 else None


def refuse_other(job: Job, identity: Mapping[str, str]) -> None:
    """JobError names what the state was made with, where that is not what is asked for now."""
    names = [n for n in {**job.identity, **identity} if job.identity.get(n) != identity.get(n)]
    if names:
        told = "; ".join(
            f"{name} was {_short(job.identity.get(name))}, is {_short(identity.get(name))}"
            for name in names
        )
        raise JobError(
            f"the state of {job.target.name} is of another run: {told}. Ask for the same, or "
            f"remove {job.folder}"
        )


def _short(text: str | None) -> str:
    return "not there" if text is None else text if len(text) <= 60 else f"{text[:57]}..."


class DiskJournal:
    """A `Journal` in a folder beside the output, and a context: what it kept goes at a good end.

    identify: everything that the frames of a plan depend on, by a word that a user knows
    """

    def __init__(
        self, target: Path, plan: Plan, identify: Callable[[Plan], Mapping[str, str]]
    ) -> None:
        self.target = target
        self.folder = folder_of(target)
        self.identify = identify
        self.adopt(plan)
        self.job: Job | None = None
        self.spool: Spool | None = None
        self.lock: IO[bytes] | None = None  # held while the run lives, and released by its death
        self.is_kept = True
        self.due = time.monotonic() + SHORTEST_WAIT

    def adopt(self, plan: Plan) -> None:
        """Whose states are kept from now on."""
        self.plan = plan
        self.identity = dict(self.identify(plan))

    def resume(self) -> Job | None:
        """Find the state to go on from; JobError where it is another run's, or still running."""
        job = read_job(self.folder)
        if job is None and (self.folder / JOB).exists():
            raise JobError(f"the state of {self.target.name} is damaged: remove {self.folder}")
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

    def load(self) -> State | None:
        """The state of the job that `resume` found; None without one."""
        if self.job is None:
            return None
        try:
            is_whole = digest_of(self.job.state) == self.job.digest
            tensors = load_file(self.job.state) if is_whole else {}
        except (SafetensorError, OSError):
            is_whole = False
        if not is_whole:
            raise JobError(f"{self.job.state} is cut short or changed: remove {self.folder}")
        return State(self.job.scene, self.job.turns, self.job.frames, tensors)

    def frames(self) -> Iterator[Frame]:
        """The frames that had left by then."""
        if self.job is None:
            return iter(())
        return spool.read(self.folder, self.job.pieces, self.job.frames)

    def add(self, frame: Frame) -> None:
        """Keep a frame that leaves; where that fails, the run goes on without a state."""
        if not self.is_kept:
            return
        with self._or_without():
            self._leave_room(frame)
            if self.spool is None:
                self._take()
                pieces, frames = (self.job.pieces, self.job.frames) if self.job else ((), 0)
                self.spool = Spool(self.folder, pieces=pieces, frames=frames)
            self.spool.add(frame)

    def _leave_room(self, frame: Frame) -> None:
        """OSError before the frames that are kept take the disk that the output needs."""
        free = shutil.disk_usage(self.folder.parent).free
        if free < self.plan.output_bytes + frame.nbytes:
            raise OSError(ENOSPC, f"{free / 1e6:.0f} MB are free, which the output may need")

    def is_due(self) -> bool:
        return self.is_kept and time.monotonic() >= self.due

    def keep(self, state: State) -> None:
        if not self.is_kept:  # since it was due, a frame could not be kept
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
        except (OSError, SafetensorError, JobError) as error:
            self.is_kept = False
            logger.warning("no state can be kept in %s, the run goes on: %s", self.folder, error)
            self._drop_frames()

    def _drop_frames(self) -> None:
        """Give back the disk of frames that no state needs."""
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        if self.lock is not None and read_job(self.folder) is None:
            for path in self.folder.glob("frames-*"):
                path.unlink(missing_ok=True)
        (self.folder / "state.part").unlink(missing_ok=True)

    def _write(self, state: State) -> None:
        """First frames and latents, then the word that they are there; then older ones go."""
        self._take()
        turns = [self.plan.turns_of(scene) for scene in self.plan.scenes]
        done = sum(turns[: state.scene]) + state.turns
        name = f"state-{done}.safetensors"
        temporary = self.folder / "state.part"
        save_file({k: x.contiguous().cpu() for k, x in state.tensors.items()}, temporary)
        digest = digest_of(temporary)
        _settle(temporary, self.folder / name)
        job = {
            "digest": digest,
            "identity": self.identity,
            "arrangement": self.plan.arrangement,
            "scene": state.scene,
            "turns": state.turns,
            "done": done,
            "total": sum(turns),
            "frames": state.frames,
            "pieces": self._pieces(),
        }
        temporary = self.folder / "job.part"
        temporary.write_text(json.dumps(job, indent=1), encoding="utf-8")
        _settle(temporary, self.folder / JOB)
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _pieces(self) -> tuple[str, ...]:
        if self.spool is not None:
            return self.spool.settle()
        return self.job.pieces if self.job else ()

    def __enter__(self) -> DiskJournal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The output is complete, or a state waits: without one, nothing stays."""
        if self.spool is not None:
            self.spool.close()
        if self.lock is None:
            return
        if kind is None or read_job(self.folder) is None:
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


def digest_of(path: Path) -> str:
    """Hash a whole file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


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
