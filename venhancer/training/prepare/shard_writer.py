"""Shards that appear whole, and a list of their contents, so that a killed run can continue.

A shard is written as `000003.tar.part` and renamed when it is full. Only then a line is added to
`journal.jsonl`: the films that it finished, and the progress in the next film. Work after the last
line is repeated.
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
    """A clip, or a whole film, that was not kept; times are seconds of the film."""

    film: str
    start: float
    end: float
    reason: str  # one of a few words, so that reasons can be counted
    detail: str = ""


@dataclass(slots=True)
class FilmRecord:
    """Progress of one film."""

    name: str
    pieces: int = 0  # examined
    kept: int = 0
    seconds: float = 0.0  # kept
    left_out: list[LeftOut] = field(default_factory=list)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> FilmRecord:
        return cls(**{**fields, "left_out": [LeftOut(**item) for item in fields["left_out"]]})


class ShardFolder:
    """Folder that collects clips in shards: film by film, piece by piece."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard_bytes: int) -> None:
        """Create the folder, or continue it; OptionError if it holds something else."""
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
        """List the records of all films that were examined so far."""
        return [*self.films.values(), *([self.begun] if self.begun else [])]

    def record(self, film: str) -> FilmRecord:
        """Get the record of the film whose pieces follow now."""
        if self.begun is None or self.begun.name != film:
            self.begun = FilmRecord(film)
        return self.begun

    def leave_out(self, item: LeftOut) -> None:
        """Record that the present piece is left out."""
        record = self.record(item.film)
        record.pieces += 1
        record.left_out.append(item)

    def keep(self, film: str, seconds: float, members: Mapping[str, bytes]) -> None:
        """Store the present piece; members: contents by extension."""
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
        """Record that a film is complete; left_out: its parts that never became pieces."""
        record = self.record(film)
        record.left_out += left_out
        self.films[film] = record
        self._unsaved.append(record)
        self.begun = None

    def close(self) -> None:
        """Finish the last shard, if one is begun, and `journal.jsonl`."""
        if self._archive is not None:
            self._finish_shard()
        elif self._unsaved:
            self._note(None)

    def _shard(self, number: int) -> Path:
        return self.folder / f"{number:06}.tar"

    def _unknown_shards(self) -> list[Path]:
        """List shards that a run renamed, but did not record before it was killed."""
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
    """Write settings into a new folder; OptionError where an old one was made with others."""
    file = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    if file.is_file():
        old = json.loads(file.read_text())
        other = [f"{k}={old.get(k)}" for k in settings if old.get(k) != settings[k]]
        if other:
            raise OptionError(
                f"{folder} was prepared with {', '.join(other)}: name the same settings to "
                "continue, or another -o"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise OptionError(f"{folder} is not empty and holds no shards of ours: name another -o")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines; an incomplete last line, left by a killed run, is removed."""
    if not path.is_file():
        return []
    whole, _, torn = path.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]
