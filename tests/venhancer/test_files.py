"""Files appear complete or not at all, and a lock has one holder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from venhancer import files
from venhancer.files import fingerprint, hash_file, try_lock, write_text, written_whole


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_file_appears_whole(tmp_path: Path, is_durable: bool) -> None:
    """It has its name when the block ends, and not before."""
    path = tmp_path / "out.bin"
    with written_whole(path, is_durable=is_durable) as temporary:
        temporary.write_bytes(b"all of it")
        assert not path.exists()
    assert path.read_bytes() == b"all of it"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """No partial file is left beside it."""
    path = tmp_path / "out.txt"
    write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_long_names_are_written(tmp_path: Path) -> None:
    """Names up to 255 bytes, the limit of file systems, work."""
    path = tmp_path / ("n" * 251 + ".txt")
    write_text(path, "x")
    assert path.read_text() == "x"


def test_hashes_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are SHA-256, for any size of the pieces."""
    data = bytes(range(256)) * 5
    (tmp_path / "a").write_bytes(data)
    monkeypatch.setattr(files, "PIECE", 100)
    assert hash_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_fingerprint_sees_size_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's fingerprint includes names and sizes."""
    monkeypatch.setattr(files, "ENDS", 4)
    path = tmp_path / "a"
    found = set()
    for data in (b"0123456789", b"x123456789", b"012345678x", b"01234567890"):
        path.write_bytes(data)
        found.add(fingerprint(path))
    assert len(found) == 4
    before = fingerprint(tmp_path)
    (tmp_path / "b").write_bytes(b"")
    assert fingerprint(tmp_path) != before


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """A second holder can take it once it is closed."""
    held = try_lock(tmp_path / "lock")
    assert held is not None
    assert try_lock(tmp_path / "lock") is None
    held.close()
    again = try_lock(tmp_path / "lock")
    assert again is not None
    again.close()
