"""Shards that appear whole, and a journal of what they hold, so that a killed run goes on.

A shard is written as `000003.tar.part` and renamed when it is full; only then does one line of
`journal.jsonl` tell which films it finished and how far into the next one it came. What a run had
begun beyond its last line is done anew.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from venhancer.errors import OptionError
from venhancer.files import write_text

SETTINGS, JOURNAL, REPORT = "settings.json", "journal.jsonl", "report.json"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A clip, or a whole film, that was not kept; seconds of the film."""

    film: str
    start: float
    end: float
    reason: str  # one of a few, to count by
    detail: str = ""


@dataclass(slots=True)
class FilmRecord:
    """How far a film has come."""

    name: str
    pieces: int = 0  # looked at
    kept: int = 0
    seconds: float = 0.0  # kept
    left_out: list[LeftOut] = field(default_factory=list)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> FilmRecord:
        return cls(**{**fields, "left_out": [LeftOut(**item) for item in fields["left_out"]]})


class ShardFolder:
    """Where clips are collected: films in order, each by its pieces."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard_bytes: int) -> None:
        """Creates the folder, or goes on with it; OptionError: it holds something else."""
        check_settings(folder, settings)
        self.folder, self.shard_bytes = folder, shard_bytes
        self.films: dict[str, FilmRecord] = {}
        self.begun: FilmRecord | None = None
        self.shards = 0
        for line in _whole_lines(folder / JOURNAL):
            self.shards += line["shard"] is not None
            finished = [FilmRecord.from_dict(fields) for fields in line["films"]]
            self.films |= {film.name: film for film in finished}
            self.begun = FilmRecord.from_dict(line["begun"]) if line["begun"] else None
        self.clips = sum(film.kept for film in self.records())
        self._unsaved: list[FilmRecord] = []
        self._archive: tarfile.TarFile | None = None
        for leftover in (*folder.glob("*.tar.part"), *self._unknown_shards()):
            leftover.unlink()

    def records(self) -> list[FilmRecord]:
        """Of every film that was looked at."""
        return [*self.films.values(), *([self.begun] if self.begun else [])]

    def record(self, film: str) -> FilmRecord:
        """That of the film whose pieces now follow."""
        if self.begun is None or self.begun.name != film:
            self.begun = FilmRecord(film)
        return self.begun

    def leave_out(self, item: LeftOut) -> None:
        """Of the present piece."""
        record = self.record(item.film)
        record.pieces += 1
        record.left_out.append(item)

    def keep(self, film: str, seconds: float, members: Mapping[str, bytes]) -> None:
        """The present piece, by the extensions of its members."""
        record = self.record(film)
        record.pieces += 1
        record.kept += 1
        record.seconds += seconds
        self._write(members)
        self.clips += 1
        assert self._archive is not None
        if self._archive.offset >= self.shard_bytes:
            self._finish_shard()

    def end_film(self, film: str, left_out: list[LeftOut]) -> None:
        """All its pieces were looked at; left_out: what never became a piece."""
        record = self.record(film)
        record.left_out += left_out
        self.films[film] = record
        self._unsaved.append(record)
        self.begun = None

    def close(self) -> None:
        """Finish the last shard, if one is begun, and the journal."""
        if self._archive is not None:
            self._finish_shard()
        elif self._unsaved:
            self._note(None)

    def _shard(self, number: int) -> Path:
        return self.folder / f"{number:06}.tar"

    def _unknown_shards(self) -> list[Path]:
        """Renamed by a run that was killed before it could note them."""
        later = self._shard(self.shards)
        return [later] if later.exists() else []

    def _write(self, members: Mapping[str, bytes]) -> None:
        if self._archive is None:
            self._archive = tarfile.open(f"{self._shard(self.shards)}.part", "w")  # noqa: SIM115
        for extension, content in members.items():
            member = tarfile.TarInfo(f"{self.clips:08}.{extension}")
            member.size = len(content)
            self._archive.addfile(member, io.BytesIO(content))

    def _finish_shard(self) -> None:
        assert self._archive is not None
        self._archive.close()
        self._archive = None
        shard = self._shard(self.shards)
        Path(f"{shard}.part").replace(shard)
        self._note(shard.name)
        self.shards += 1

    def _note(self, shard: str | None) -> None:
        line = {
            "shard": shard,
            "films": [dataclasses.asdict(film) for film in self._unsaved],
            "begun": dataclasses.asdict(self.begun) if self.begun else None,
        }
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._unsaved = []


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note them in a new folder; OptionError where an old one was made with others."""
    file = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    if file.is_file():
        old = json.loads(file.read_text())
        other = [f"{k}={old.get(k)}" for k in settings if old.get(k) != settings[k]]
        if other:
            raise OptionError(
                f"{folder} was prepared with {', '.join(other)}: name the same settings to go on, "
                "or another -o"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise OptionError(f"{folder} is not empty and holds no shards of ours: name another -o")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Of a journal; a last line that a killed run left unfinished is taken off."""
    if not path.is_file():
        return []
    whole, _, torn = path.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]
