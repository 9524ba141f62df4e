"""Rows of peers out of an earlier results file of `quality`: their figures do not change."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import shown
from benchmarks.quality_clips import MAIN, Clip, QualityError, Setting
from benchmarks.quality_goals import RIVAL
from benchmarks.quality_table import Row

SECONDS = ("seconds_per_frame", "file_seconds")  # not compared: another run, another load


def borrow(
    path: Path, setting: Setting, clips: Sequence[Clip], own: Container[str]
) -> dict[str, dict[str, Row]]:
    """By clip, the rows of all methods but the truth and those that run anew."""
    result = entry_of(path, setting)
    return {
        clip.name: {
            name: {key: value for key, value in row.items() if key not in SECONDS}
            for name, row in rows_of(result, clip, path).items()
            if name != "truth" and name not in own
        }
        for clip in clips
    }


def entry_of(path: Path, setting: Setting) -> dict[str, Any]:
    """The part of a results file that was measured at the setting."""
    try:
        file: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise QualityError(f"{shown(str(path))} cannot be read: {error}") from None
    entries: list[dict[str, Any]] = file.get("settings", [file])
    for entry in entries:
        if (entry.get("scale", MAIN.scale), entry.get("interpolate", MAIN.interpolate)) == (
            setting.scale,
            setting.interpolate,
        ):
            return entry
    raise QualityError(f"{shown(str(path))} has nothing at {setting}")


def rows_of(entry: dict[str, Any], clip: Clip, path: Path) -> dict[str, Row]:
    """The rows of a clip; QualityError where the file is of other frames, or lacks the rival."""
    known = entry.get("clips", {}).get(clip.name)
    if known is None or known["start_seconds"] != clip.start_seconds:
        raise QualityError(
            f"{shown(str(path))} has no {clip.name} from {clip.start_seconds:g} s on"
        )
    rows: dict[str, Row] = entry["results"][clip.name]
    if RIVAL not in rows:
        raise QualityError(f"{shown(str(path))} has no row of {RIVAL}: it was made without --peers")
    return rows
