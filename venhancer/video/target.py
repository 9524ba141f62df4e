"""Checks of an output's path before any work, temporary names beside it, and disk errors."""

import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import av

from venhancer.errors import OutputError
from venhancer.video.folders import numbered_pngs

HIDDEN = ".venhancer-"
SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")
NAME_BYTES = 255  # of a name, where the file system does not tell its own limit
_OWN_BYTES = len(HIDDEN) + len("4194304-abcdef-")  # of a hidden name, before the target's name
_SUFFIX_BYTES = 16  # a longer suffix is no suffix


def check_target(path: Path, overwrite: bool) -> None:
    """Raise OutputError, before any work, where `path` cannot become the output.

    A path without suffix is a folder of PNG files. With `overwrite`, a file may be replaced,
    and a folder that holds nothing but numbered PNG files.
    """
    check_name(path)
    check_suffix(path)
    parent = path.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{parent} is no folder: make it before writing {path.name}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{parent} cannot be written to")
    check_existing(path, overwrite)


def check_suffix(path: Path) -> None:
    """Raise OutputError for a kind of file that cannot be written."""
    if not is_folder_target(path) and path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"{path.name}: cannot write {path.suffix}, only {', '.join(SUFFIXES)} "
            "or, without suffix, a folder of PNG files"
        )


def check_name(path: Path) -> None:
    """Raise OutputError for a path that has no name, or one that the file system refuses."""
    if path.name in ("", ".."):
        raise OutputError(f"{path} has no name of its own: write the name of the file or folder")
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            size, limit = len(os.fsencode(path.name)), name_limit(path.absolute().parent)
            raise OutputError(
                f"{path.name[:20]}... has {size} bytes in its name and "
                f"{len(os.fsencode(path.absolute()))} in its path, the file system takes {limit} "
                "in a name: choose a shorter one"
            ) from error


def name_limit(folder: Path) -> int:
    """Count the bytes that a name in `folder` may have."""
    try:
        limit = os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return NAME_BYTES
    return limit if limit > 0 else NAME_BYTES


def fitted_name(name: str, limit: int) -> str:
    """Shorten a name to `limit` bytes: its beginning, a hash of the whole name, and its suffix.

    A name that fits is returned unchanged.
    """
    data = os.fsencode(name)
    if len(data) <= limit:
        return name
    suffix = Path(name).suffix
    mark = "~" + hashlib.sha256(data).hexdigest()[:12]
    if len(os.fsencode(suffix)) <= _SUFFIX_BYTES:
        mark += suffix
    beginning = data[: max(0, limit - len(os.fsencode(mark)))]
    return beginning.decode("utf-8", "ignore") + mark  # not half a character


def is_folder_target(path: Path) -> bool:
    """Tell whether the output is a folder of PNG files: no suffix, or an existing folder."""
    return not path.suffix or path.is_dir()


def check_existing(path: Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputError(f"{path} exists: choose another name, or pass --overwrite")
    if is_folder_target(path) and not _is_png_folder(path):
        raise OutputError(f"{path} exists and is no folder of PNG files: it is not replaced")


def _is_png_folder(path: Path) -> bool:
    return path.is_dir() and not set(path.iterdir()) - set(numbered_pngs(path))


def hidden_name(path: Path) -> Path:
    """Name the temporary file or folder that this process writes, and later renames to `path`."""
    return path.with_name(f"{HIDDEN}{os.getpid()}-{uuid4().hex[:6]}-{_told_name(path)}")


def _told_name(path: Path) -> str:
    """Shorten the name so that a hidden name with it is no longer than the file system allows."""
    return fitted_name(path.name, name_limit(path.absolute().parent) - _OWN_BYTES)


def sweep(path: Path) -> None:
    """Remove temporary outputs for `path` that killed processes left behind."""
    _sweep(path.absolute().parent, glob.escape(_told_name(path)))


def sweep_folder(folder: Path) -> None:
    """Remove all temporary outputs in a folder that killed processes left behind."""
    _sweep(folder, "*")


def _sweep(folder: Path, names: str) -> None:
    for left in folder.glob(f"{HIDDEN}*-*-{names}"):
        process = left.name.removeprefix(HIDDEN).partition("-")[0]
        if not process.isdigit() or is_alive(int(process)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Tell whether a process with this number exists, whoever owns it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def speaking_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk and of the muxer into a one-line OutputError."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        if error.errno == errno.ENOSPC:
            raise OutputError(f"no space left on the disk of {path}") from error
        reason = error.strerror or error
        raise OutputError(f"{path} could not be written: {reason}") from error
