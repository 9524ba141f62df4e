"""The figures of `quality` as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping

Row = dict[str, float]

COLUMNS = {
    "PSNR even": ("psnr_even", ".2f"),
    "PSNR odd": ("psnr_odd", ".2f"),
    "SSIM even": ("ssim_even", ".3f"),
    "SSIM odd": ("ssim_odd", ".3f"),
    "VMAF": ("vmaf", ".1f"),
    "LPIPS": ("lpips", ".3f"),
    "grid": ("grid", ".2f"),
    "detail": ("detail", ".3f"),
    "Ewarp": ("ewarp", ".2f"),
    "tdiff": ("tdiff", ".2f"),
    "s/frame": ("seconds_per_frame", ".2f"),
}


def cells(row: Mapping[str, float], missing: str = "") -> list[str]:
    """A row's figures in the order of COLUMNS."""
    return [f"{row[key]:{form}}" if key in row else missing for key, form in COLUMNS.values()]


def table(rows: Mapping[str, Row]) -> str:
    """A clip's rows as a markdown table."""
    lines = ["| method | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells(row)) + " |" for name, row in rows.items()]
    return "\n".join(lines)
