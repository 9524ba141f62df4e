"""The tables of what the built-in model does with its conditions."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.ablations import claim_line
from benchmarks.report_tables import NONE, Question, Result, Row


def ablation_rows(result: Result) -> Iterator[Row]:
    for study, rows in result["mean"].items():
        for setting, row in rows.items():
            yield (
                study,
                setting,
                *(_figure(row, key, form) for key, form in FIGURES.items()),
            )


FIGURES = {
    "psnr": ".2f",
    "ssim": ".3f",
    "lpips": ".3f",
    "detail": ".3f",
    "artefact_left": ".3f",
    "picture_left": ".3f",
}


def _figure(row: Result, key: str, form: str) -> str:
    """One, or those of key frames and of new ones."""
    if f"{key}_key" in row:
        return " / ".join(f"{row[f'{key}_{kind}']:{form}}" for kind in ("key", "new"))
    return f"{row[key]:{form}}" if key in row else NONE


def ablation_reading(result: Result) -> Iterator[str]:
    """What the claims come to, then the pictures."""
    yield "\n".join(f"- {claim_line(*claim)}" for claim in result["claims"].items())
    yield from (f"![{name}](pictures/{name})" for name in result["pictures"])


QUALITY = (
    Question(
        title="What do the conditions of the built-in model do?",
        benchmark="ablations",
        about="The paper's ablations with NANO on 80x48 pixels of three real clips (those of "
        "`quality`), the mean over them: what it is told of a downscaling of 4; the noise level "
        "on the key frames, to which Gaussian noise of 10 grey levels was added; the size asked "
        "for, exactly; how many times the frames (key frames / new ones). Detail is "
        "high-frequency energy over that of the truth. What is left of the artefact is over what "
        "is left of the picture, which fades where its share is below 1.",
        columns=(
            *("changed", "setting", "PSNR, dB", "SSIM", "LPIPS", "detail", "artefact left"),
            "picture left",
        ),
        rows=ablation_rows,
        reading=ablation_reading,
        has_cards=False,
    ),
)
