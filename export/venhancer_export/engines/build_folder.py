"""The folder that a bundle is made in: files appear whole, survive a crash, and move together."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from venhancer.bundle.manifest import File
from venhancer.errors import BundleError
from venhancer.files import hash_file, try_lock, write_text, written_whole

PROGRESS, LOCK = "progress.json", "lock"
Make = Callable[[Path], None]  # writes the file that it is given


class BuildFolder:
    """Build folder `.NAME.partial` beside the bundle; a later run of the same request reuses it."""

    def __init__(self, folder: Path, key: str, *, may_replace: bool = False) -> None:
        self.folder = folder.absolute()
        self.old = self.folder.with_name(f".{self.folder.name}.old")
        self.may_replace = may_replace
        self.place = self.folder.with_name(f".{self.folder.name}.partial")
        self.key = key
        self.kept: dict[str, dict[str, Any]] = {}  # records of an earlier run, by path
        self.made: dict[str, File] = {}
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> BuildFolder:
        self.place.mkdir(exist_ok=True)
        self.lock = self._take()
        if self.old.exists() and not self.folder.exists():  # killed between the two renames
            self.old.rename(self.folder)
        self.kept = self._earlier()
        if not self.kept:
            for path in self.place.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep an unfinished folder for the next run, but remove an empty one."""
        if self.place.is_dir() and not self.made and not self.kept:
            shutil.rmtree(self.place)
        self.lock.close()

    def make(self, path: str, make: Make, of: str = "") -> Path:
        """Have `make` write a file, unless this or an earlier run did so and it is unchanged.

        of: the file in this folder that it is made from; if that one has changed, it is made again
        """
        target = self.place / path
        if path in self.made:
            return target
        source = self.made[of].sha256 if of else ""
        known = self.kept.get(path)
        if known and known["of"] == source and _is_unchanged(target, known):
            self.made[path] = File(path=path, size=known["size"], sha256=known["sha256"])
            self.seconds[path] = known["seconds"]
            return target
        return self.make_anew(path, make, source)

    def make_anew(self, path: str, make: Make, source: str = "") -> Path:
        """Have `make` write a file, even if it exists: for files that are made quickly."""
        target = self.place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with written_whole(target) as temporary:
            make(temporary)
        self._record(path, time.monotonic() - start, source)
        return target

    def make_folder(self, path: str, make: Make) -> None:
        """Have `make` fill a folder."""
        target = self.place / path
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        make(target)
        for file in sorted(p for p in target.rglob("*") if p.is_file()):
            self._record(file.relative_to(self.place).as_posix(), 0.0, "")

    def files(self) -> tuple[File, ...]:
        return tuple(self.made[path] for path in sorted(self.made))

    def finish(self, name: str, text: str) -> None:
        """Write the manifest, and rename the folder to the bundle.

        BundleError where something else was created there meanwhile.
        """
        for path in self.place.rglob("*"):
            known = path.relative_to(self.place).as_posix() in {*self.made, PROGRESS, LOCK}
            if path.is_file() and not known:
                path.unlink()
        (self.place / name).write_text(text, encoding="utf-8")
        if self.folder.exists():
            if not (self.may_replace and (self.folder / name).is_file()):
                raise BundleError(
                    f"{self.folder} has come to be while the bundle was built: move it away, and "
                    "run the same command again, which only has to finish"
                )
            shutil.rmtree(self.old, ignore_errors=True)
            self.folder.rename(self.old)
        self.place.rename(self.folder)
        shutil.rmtree(self.old, ignore_errors=True)
        for left in (PROGRESS, LOCK):
            (self.folder / left).unlink(missing_ok=True)

    def _record(self, path: str, seconds: float, source: str) -> None:
        file = self.place / path
        made = File(path=path, size=file.stat().st_size, sha256=hash_file(file))
        self.made[path] = made
        self.seconds[path] = seconds
        self.kept[path] = {**dataclasses.asdict(made), "seconds": seconds, "of": source}
        write_text(self.place / PROGRESS, json.dumps({"key": self.key, "files": self.kept}))

    def _earlier(self) -> dict[str, dict[str, Any]]:
        try:
            progress = json.loads((self.place / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return dict(progress["files"]) if progress.get("key") == self.key else {}

    def _take(self) -> IO[bytes]:
        """Lock the folder for this process; the lock ends with the process."""
        lock = try_lock(self.place / LOCK)
        if lock is None:
            raise BundleError(
                f"another process is building {self.folder}: wait, or take another -o"
            )
        return lock


def _is_unchanged(path: Path, known: dict[str, Any]) -> bool:
    is_there = path.is_file() and path.stat().st_size == known["size"]
    return is_there and hash_file(path) == known["sha256"]
