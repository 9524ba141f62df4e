"""The figures of `quality` as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping

Row = dict[str, float]

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
    """A row's figures in the order of the columns."""
    chosen = [COLUMNS[name] for name in columns]
    return [f"{row[key]:{form}}" if key in row else missing for key, form in chosen]


def table(rows: Mapping[str, Row], notes: Mapping[str, str] | None = None) -> str:
    """A clip's rows as a markdown table; notes stand beside the names of their methods."""
    lines = ["| method | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [
        f"| {noted(name, notes or {})} | " + " | ".join(cells(row)) + " |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def noted(name: str, notes: Mapping[str, str]) -> str:
    """A method with the way in which it ran, where that is told."""
    return f"{name} ({notes[name]})" if name in notes else name


def compact_table(results: Mapping[str, Mapping[str, Row]], methods: tuple[str, ...]) -> str:
    """The columns that goals ask for, of some methods on every clip."""
    lines = ["| clip | method | " + " | ".join(COMPACT) + " |", "|---" * (len(COMPACT) + 2) + "|"]
    lines += [
        f"| {clip} | {name} | " + " | ".join(cells(rows[name], columns=COMPACT)) + " |"
        for clip, rows in results.items()
        for name in methods
        if name in rows
    ]
    return "\n".join(lines)
