"""Paths of the checkout and its golden files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
BUTTERFLY = ROOT / "assets" / "butterfly.mp4"
CONTAINERS = ROOT / "tests" / "data" / "containers"  # made files with one difficulty each
