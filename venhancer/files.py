"""Files that are written whole or not at all, hashes of files, locks that end with a process."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PIECE = 1 << 22  # bytes that are hashed at a time
ENDS = 1 << 20  # bytes at either end of a file that its fingerprint covers


@contextmanager
def written_whole(path: Path, *, is_durable: bool = False) -> Iterator[Path]:
    """Give a temporary file beside `path`, which is renamed to `path` when the block succeeds.

    If the block fails, the temporary file is removed and `path` is left as it was.
    is_durable: wait for the disk before the rename, so that no crash leaves a name without bytes
    """
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]  # short for any name
    temporary = path.with_name(f".{name}.part")
    try:
        yield temporary
        if is_durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, is_durable: bool = False) -> None:
    """Write a file in UTF-8, whole or not at all."""
    with written_whole(path, is_durable=is_durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_text(text: str) -> str:
    """Compute the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """Identify a file by its size and a hash of both ends; a folder by names and sizes."""
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


def try_lock(path: Path) -> IO[bytes] | None:
    """Open and lock a file that only one process can hold; None if another one holds it.

    A file that its last holder removed in the meantime counts as held.
    """
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if not os.fstat(file.fileno()).st_nlink:
        file.close()
        return None
    return file
