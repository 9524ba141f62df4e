"""Report of a verification: rows, gates, and the verdict as a table, JSON and Markdown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from venhancer.contract import Precision
from venhancer.errors import OutputError
from venhancer.files import write_text
from venhancer_export.onnx_graph.attention_range import Logits

JSON, MARKDOWN = "parity.json", "parity.md"
Verdict = Literal["pass", "warn", "FAIL"]
Stage = Literal["graph", "one call", "whole run", "attention"]
HEAD = ("verdict", "stage", "network", "shape", "at", "run by", "found", "limit")
ON_SCREEN = ("different", "relative_l2", "psnr_min", "ssim_min", "raw", "scaled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Limits that a bundle must meet."""

    float32_l2: float = 1e-5  # relative error of one call on equal inputs: exported graphs, engines
    float16_l2: float = 2e-3
    float16_pytorch: float = 1e-2  # PyTorch's own float16, a yardstick that is not exported
    psnr: float = 35.0  # dB, mean and worst frame of a whole run
    ssim: float = 0.95
    logit: float = 65504.0  # |Q K^T| / sqrt(c): the largest float16

    def l2(self, precision: Precision, is_yardstick: bool) -> float:
        """Give the limit of one call."""
        if precision == "float32":
            return self.float32_l2
        return self.float16_pytorch if is_yardstick else self.float16_l2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison with PyTorch in float32."""

    stage: Stage
    network: str
    shape: str
    at: str  # timestep, or eta
    run_by: str
    precision: Precision
    found: Mapping[str, float]
    limit: Mapping[str, float]
    verdict: Verdict


def judge_call(found: Mapping[str, float], limit: float) -> Verdict:
    """Judge one call by relative_l2; values that are not finite fail."""
    return "pass" if _is_finite(found) and found["relative_l2"] <= limit else "FAIL"


def judge_run(found: Mapping[str, float], gates: Gates) -> Verdict:
    """Judge a whole run by its worst frame; infinite PSNR, of equal frames, passes.

    The worst frame is never better than the mean, so both meet the limit.
    """
    is_sound = math.isfinite(found["relative_l2"]) and not math.isnan(found["psnr_min"])
    is_near = found["psnr_min"] >= gates.psnr and found["ssim_min"] >= gates.ssim
    return "pass" if is_sound and is_near else "FAIL"


def judge_logits(logits: Logits, gates: Gates) -> Verdict:
    if not logits.scaled <= gates.logit:
        return "FAIL"
    return "pass" if logits.raw <= gates.logit else "warn"


def held_to(verdict: Verdict, precision: Precision, bundle: Precision) -> Verdict:
    """Turn a float16 failure into a warning for a bundle in float32, which does not use float16."""
    is_told = (precision, bundle) == ("float16", "float32")
    return "warn" if is_told and verdict == "FAIL" else verdict


def _is_finite(found: Mapping[str, float]) -> bool:
    return all(math.isfinite(x) for x in found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Result of the whole verification of one bundle."""

    bundle: Mapping[str, Any]  # what was verified: preset, precision, shapes, builder
    rows: Sequence[Row]
    layers: Mapping[str, Logits]  # of every attention layer
    notes: Sequence[str]  # what was left out, and why
    versions: Mapping[str, str]
    seconds: float
    gates: Gates = field(default_factory=Gates)

    @property
    def passed(self) -> bool:
        """True if nothing failed and something was compared."""
        return bool(self.rows) and all(row.verdict != "FAIL" for row in self.rows)

    @property
    def summary(self) -> str:
        counts = {v: sum(row.verdict == v for row in self.rows) for v in ("pass", "warn", "FAIL")}
        told = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
        return f"{'passed' if self.passed else 'FAILED'}: {told}; {self.seconds:.0f} s"

    def lines(self) -> list[str]:
        """Format the worst row per network and candidate for the screen; files have all rows."""
        cells = [HEAD, *(_cells(row, ON_SCREEN) for row in worst(self.rows))]
        widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return [*table, *self.notes, self.summary]

    def write(self, folder: Path) -> None:
        """Write `parity.json` and `parity.md`, each whole or not at all."""
        _write(folder / JSON, self.to_json())
        _write(folder / MARKDOWN, self.to_markdown())

    def to_json(self) -> str:
        fields = {
            **dataclasses.asdict(self),
            "passed": self.passed,
            "oracle": "PyTorch float32",
        }
        return json.dumps(_plain(fields), indent=1) + "\n"

    def to_markdown(self) -> str:
        shapes = ", ".join(self.bundle["shapes"])
        lines = [
            f"# Parity of {self.bundle['preset']}, {self.bundle['precision']}, {shapes}",
            "",
            f"{self.summary}. Everything is compared with PyTorch in float32 on equal inputs.",
            "",
            *_table(HEAD, map(_cells, self.rows)),
            "",
            "Largest attention products, by layer:",
            "",
            *_table(
                ("layer", "raw", "scaled"),
                ((name, f"{x.raw:.4g}", f"{x.scaled:.4g}") for name, x in self.layers.items()),
            ),
            "",
            *(f"- {note}" for note in self.notes),
            "",
            "Versions: " + ", ".join(f"{k} {v}" for k, v in self.versions.items()),
        ]
        return "\n".join(lines) + "\n"


def worst(rows: Iterable[Row]) -> list[Row]:
    """Keep the worst of all rows that differ only in shape and timestep (or eta)."""
    kept: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (row.stage, row.network, row.run_by)
        if key not in kept or _badness(row) > _badness(kept[key]):
            kept[key] = row
    return list(kept.values())


def _badness(row: Row) -> tuple[bool, float]:
    """Order rows: failed ones are worse, then larger errors."""
    error = row.found.get("relative_l2", 0.0)
    return row.verdict == "FAIL", math.inf if math.isnan(error) else error


def _cells(row: Row, shown: Sequence[str] | None = None) -> tuple[str, ...]:
    found = {name: x for name, x in row.found.items() if shown is None or name in shown}
    return (
        row.verdict, row.stage, row.network, row.shape, row.at, row.run_by,
        _told(found), _told(row.limit),
    )  # fmt: skip


def _told(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_number(name, value)}" for name, value in values.items())


def _number(name: str, value: float) -> str:
    if name.startswith("psnr"):
        return f"{value:.1f}"
    return f"{value:.7f}" if name.startswith(("ssim", "cosine")) else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _plain(value: Any) -> Any:
    """Convert for JSON: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
