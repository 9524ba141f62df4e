"""Rows of figures: measured against the truth, shown as a table, or read from an earlier file."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import shown
from benchmarks.peers.methods import Method
from benchmarks.quality import metrics
from benchmarks.quality.clips import (
    MAIN,
    Clip,
    QualityError,
    Setting,
    degrade,
)
from benchmarks.quality.metrics import Frames

Row = dict[str, float]

BASELINES = ("bicubic", "lanczos-minterpolate")
RIVAL = "rife-span"  # the peer whose figures are goals

COLUMNS = {
    "PSNR key": ("psnr_even", ".2f"),
    "PSNR new": ("psnr_odd", ".2f"),
    "SSIM key": ("ssim_even", ".3f"),
    "SSIM new": ("ssim_odd", ".3f"),
    "VMAF": ("vmaf", ".1f"),
    "LPIPS": ("lpips", ".3f"),
    "grid": ("grid", ".2f"),
    "detail": ("detail", ".3f"),
    "Ewarp": ("ewarp", ".2f"),
    "tdiff": ("tdiff", ".2f"),
    "s/frame": ("seconds_per_frame", ".2f"),
    "file to file": ("file_seconds", ".2f"),
}
COMPACT = ("PSNR key", "PSNR new", "VMAF", "LPIPS", "grid", "Ewarp", "file to file")


def cells(
    row: Mapping[str, float], missing: str = "-", columns: tuple[str, ...] = (*COLUMNS,)
) -> list[str]:
    """Format a row's figures in the order of the columns."""
    chosen = [COLUMNS[name] for name in columns]
    return [f"{row[key]:{form}}" if key in row else missing for key, form in chosen]


def table(rows: Mapping[str, Row], notes: Mapping[str, str] | None = None) -> str:
    """Format a clip's rows as a markdown table; notes stand beside the names of their methods."""
    lines = ["| method | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [
        f"| {noted(name, notes or {})} | " + " | ".join(cells(row)) + " |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def noted(name: str, notes: Mapping[str, str]) -> str:
    """Return a method's name with the note about how it ran, if there is one."""
    return f"{name} ({notes[name]})" if name in notes else name


def compact_table(results: Mapping[str, Mapping[str, Row]], methods: tuple[str, ...]) -> str:
    """Format the columns that goals use, for some methods on every clip."""
    lines = ["| clip | method | " + " | ".join(COMPACT) + " |", "|---" * (len(COMPACT) + 2) + "|"]
    lines += [
        f"| {clip} | {name} | " + " | ".join(cells(rows[name], columns=COMPACT)) + " |"
        for clip, rows in results.items()
        for name in methods
        if name in rows
    ]
    return "\n".join(lines)


# --- measured -------------------------------------------------------------------------------------


def run_method(
    name: str, method: Method, truth: Frames, setting: Setting = MAIN
) -> tuple[Frames, float]:
    """Run a method on the degraded truth -> its frames and its seconds per frame."""
    low = degrade(truth, setting)
    started = time.perf_counter()
    made = method(low)
    seconds = time.perf_counter() - started
    if made.shape != truth.shape:
        raise QualityError(f"{name} made {made.shape}, expected {truth.shape}")
    return made, seconds / len(made)


def measure(made: Frames, truth: Frames, lpips: metrics.Lpips, setting: Setting = MAIN) -> Row:
    """Compute every metric of one method's frames except the warping error."""
    pairs = list(zip(made, truth, strict=True))
    is_key = np.arange(len(truth)) % setting.interpolate == 0
    cutoff = 0.5 / setting.scale  # cycles a pixel: the finest detail in the input
    row: Row = {}
    for name, metric in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
        values = np.array([metric(*pair) for pair in pairs])
        row[f"{name}_even"] = float(values[is_key].mean())
        if not is_key.all():
            row[f"{name}_odd"] = float(values[~is_key].mean())
    return row | {
        "vmaf": metrics.vmaf(made, truth),
        "lpips": statistics.fmean(lpips(*pair) for pair in pairs),
        "grid": statistics.fmean(metrics.patch_grid_energy(frame) for frame in made),
        "detail": statistics.fmean(metrics.high_frequency_ratio(*pair, cutoff) for pair in pairs),
        "tdiff": metrics.frame_difference_error(made, truth),
    }


def measure_clip(
    truth: Frames,
    methods: Mapping[str, Method],
    lpips: metrics.Lpips,
    setting: Setting = MAIN,
) -> tuple[dict[str, Row], dict[str, Frames]]:
    """Run and measure every method on a clip -> rows (with one for the truth) and frames."""
    videos: dict[str, Frames] = {}
    rows: dict[str, Row] = {}
    for name, method in methods.items():
        videos[name], seconds = run_method(name, method, truth, setting)
        row = measure(videos[name], truth, lpips, setting)
        rows[name] = row | {"seconds_per_frame": seconds}
    grid = statistics.fmean(metrics.patch_grid_energy(frame) for frame in truth)
    pixels = float(truth.shape[1] * truth.shape[2])
    rows["truth"] = {"grid": grid, "detail": 1.0, "tdiff": 0.0, "pixels": pixels}
    for name, value in metrics.warping_errors(videos | {"truth": truth}, truth).items():
        rows[name]["ewarp"] = value
    return rows, videos


# --- out of an earlier results file ---------------------------------------------------------------


SECONDS = ("seconds_per_frame", "file_seconds")  # not compared: another run, another load


def borrow(
    path: Path, setting: Setting, clips: Sequence[Clip], own: Container[str]
) -> dict[str, dict[str, Row]]:
    """Return, by clip, the rows of all methods but the truth and those that run anew."""
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
    """Return the part of a results file that was measured at the setting."""
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
    """Return a clip's rows; QualityError if the file is of other frames, or lacks the rival."""
    known = entry.get("clips", {}).get(clip.name)
    if known is None or known["start_seconds"] != clip.start_seconds:
        raise QualityError(
            f"{shown(str(path))} has no {clip.name} from {clip.start_seconds:g} s on"
        )
    rows: dict[str, Row] = entry["results"][clip.name]
    if RIVAL not in rows:
        raise QualityError(f"{shown(str(path))} has no row of {RIVAL}: it was made without --peers")
    return rows
