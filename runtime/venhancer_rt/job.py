"""Jobs of runs that were cut off: found beside their outputs, compared with a new run, removed.

A job is a folder `.NAME.venhancer-job`. In it, `job.json` identifies the run, `state-N.safetensors`
holds the latents after N window steps, and `frames-*` the frames that had left by then. `lock` is
locked while a run writes the output. `journal.py` writes these files.

Where the folder's name would be too long for the file system, NAME is shortened, and the file
`name` holds the whole of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from venhancer.errors import VEnhancerError
from venhancer.files import try_lock, written_whole
from venhancer.planning.plan import Arrangement
from venhancer.video.target import fitted_name, name_limit, sweep_folder

SUFFIX = ".venhancer-job"
JOB = "job.json"
LOCK = "lock"
NAME = "name"  # only in folders with a shortened name
FORMAT = 2  # of job.json; 1 was written by version 0.1.0 and before


class JobError(VEnhancerError):
    """A job that belongs to another run, is in use, or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Job of a run that was cut off."""

    folder: Path
    identity: Mapping[str, str]
    arrangement: Arrangement
    scene: int
    window_steps: int  # of the sampler, in this scene
    done: int  # window steps in all
    total: int
    frames: int  # frames of the model that have left
    pieces: tuple[str, ...]  # files that hold these frames
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
        return _is_locked(self.folder)

    @property
    def state(self) -> Path:
        return self.folder / f"state-{self.done}.safetensors"

    @property
    def progress(self) -> str:
        """Progress of the run, in words."""
        return f"{100 * self.done // self.total} % ({self.frames} frames)"


def folder_of(target: Path) -> Path:
    """Name the folder of a run's job, the same for every spelling of the output's path."""
    place = target.absolute()
    limit = name_limit(place.parent) - len(f".{SUFFIX}")
    return place.parent / f".{fitted_name(place.name, limit)}{SUFFIX}"


def keep_name(target: Path) -> None:
    """Write the output's name into its job folder, if the folder's own name does not hold it."""
    folder = folder_of(target)
    if folder.name != f".{target.name}{SUFFIX}":
        with written_whole(folder / NAME) as temporary:
            temporary.write_bytes(os.fsencode(target.name))


def refuse_running(target: Path) -> None:
    """Raise JobError if another run is writing the same output."""
    if _is_locked(folder_of(target)):
        raise JobError(f"another process is at work on {target}: wait for it")


def _is_locked(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        return False
    try:
        lock = try_lock(folder / LOCK)
    except OSError:  # nothing can be written there
        return False
    if lock is not None:
        lock.close()
    return lock is None


def find_jobs(folder: Path) -> list[Job]:
    """Find every job in a folder, sorted by name; those that cannot be read are left out."""
    found = (read_job(path) for path in sorted(folder.glob(f".*{SUFFIX}")))
    return [job for job in found if job is not None]


def find_leftovers(folder: Path) -> list[str]:
    """List outputs of runs that were killed before their first state; their frames take disk."""
    folders = sorted(folder.glob(f".*{SUFFIX}"))
    return [_target_name(path) for path in folders if not (path / JOB).exists()]


def find_unreadable(folder: Path) -> list[str]:
    """List outputs whose jobs this version cannot read: damaged, or of another version."""
    folders = (path for path in sorted(folder.glob(f".*{SUFFIX}")) if (path / JOB).exists())
    return [_target_name(path) for path in folders if read_job(path) is None]


def _target_name(folder: Path) -> str:
    try:
        return os.fsdecode((folder / NAME).read_bytes())
    except OSError:
        return folder.name.removeprefix(".").removesuffix(SUFFIX)


def clean(folder: Path) -> list[str]:
    """Remove every job in a folder whose run is not under way; return the outputs' names.

    Half-written outputs of processes that were killed are removed too.
    """
    gone = []
    sweep_folder(folder)
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        lock, name = try_lock(path / LOCK), _target_name(path)
        if lock is not None:
            shutil.rmtree(path)
            lock.close()
            gone.append(name)
    return gone


def read_job(folder: Path) -> Job | None:
    """Read the job in `folder`; None if there is none or it is incomplete."""
    try:
        fields = json.loads((folder / JOB).read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            return None
        counts = ("scene", "window_steps", "done", "total", "frames")
        job = Job(
            folder=folder,
            identity={str(name): str(value) for name, value in fields["identity"].items()},
            arrangement=Arrangement.from_json(fields["arrangement"]),
            pieces=tuple(map(str, fields["pieces"])),
            digest=str(fields["digest"]),
            **{name: int(fields[name]) for name in counts},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return job if job.state.is_file() and job.total > 0 else None


def refuse_unreadable(folder: Path) -> None:
    """Raise JobError for a job that this version cannot read: damaged, or of another version."""
    if not (folder / JOB).exists():
        return
    name = _target_name(folder)
    try:
        fields = json.loads((folder / JOB).read_text(encoding="utf-8"))
        found = fields.get("format", 1 if "identity" in fields else FORMAT)
    except (OSError, ValueError, AttributeError, TypeError):
        found = FORMAT
    if found != FORMAT:
        raise JobError(
            f"the job of {name} was written by another version (format {found}, this one reads "
            f"{FORMAT}): finish it with that version, or remove {folder}"
        )
    raise JobError(f"the state of {name} is damaged: remove {folder}")


def refuse_other(job: Job, identity: Mapping[str, str]) -> None:
    """Raise JobError, naming the differences, if the job was made with other settings than now."""
    names = [n for n in {**job.identity, **identity} if job.identity.get(n) != identity.get(n)]
    if names:
        told = "; ".join(
            f"{name} was {_short(job.identity.get(name))}, is {_short(identity.get(name))}"
            for name in names
        )
        raise JobError(
            f"the job of {job.target.name} is of another run: {told}. Ask for the same, or "
            f"remove {job.folder}"
        )


def _short(text: str | None) -> str:
    return "not there" if text is None else text if len(text) <= 60 else f"{text[:57]}..."
