"""The tables of what the built-in model does: with its conditions, and to generated clips."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from benchmarks.ablations import claim_line
from benchmarks.report_tables import NONE, Question, Result, Row


def ablation_rows(result: Result) -> Iterator[Row]:
    for study, rows in result["mean"].items():
        for setting, row in rows.items():
            yield study, setting, *_figures(row, ABLATED)


ABLATED = {
    "psnr": ".2f",
    "ssim": ".3f",
    "lpips": ".3f",
    "detail": ".3f",
    "artefact_left": ".3f",
    "picture_left": ".3f",
}


def generated_rows(result: Result) -> Iterator[Row]:
    for clip, rows in {**result["clips"], "median": result["median"]}.items():
        for method, row in rows.items():
            yield clip, method, *_figures(row, NO_REFERENCE)


NO_REFERENCE = {
    "niqe": ".2f",
    "brisque": ".1f",
    "ewarp": ".2f",
    "tdiff": ".2f",
    "seconds_per_frame": ".2f",
}


def generated_reading(result: Result) -> Iterator[str]:
    """How many clips are nearer to what is natural, or steadier, than their enlarged input."""
    lines = []
    for name, before, after in (
        ("NIQE of key frames", "niqe", "niqe_key"),
        ("BRISQUE of key frames", "brisque", "brisque_key"),
        ("Ewarp", "ewarp", "ewarp"),
    ):
        clips = [(rows["input"][before], rows["nano"][after]) for rows in result["clips"].values()]
        lower = sum(nano < plain for plain, nano in clips)
        change = statistics.median(nano - plain for plain, nano in clips)
        lines.append(f"- {name}: lower in {lower} of {len(clips)} clips, median {change:+.2f}.")
    yield "\n".join(lines)


def _figures(row: Result, forms: Mapping[str, str]) -> Iterator[str]:
    return (_figure(row, key, form) for key, form in forms.items())


def _figure(row: Result, key: str, form: str) -> str:
    """One, or those of key frames and of new ones."""
    if f"{key}_key" in row:
        return " / ".join(f"{row[f'{key}_{kind}']:{form}}" for kind in ("key", "new"))
    return f"{row[key]:{form}}" if key in row else NONE


def ablation_reading(result: Result) -> Iterator[str]:
    """What the claims come to, then the pictures."""
    claims = [claim_line(*claim) for claim in result["claims"].items()]
    yield "\n".join(f"- {line}" for line in [*claims, *_noise_left(result)])
    yield from (f"![{name}](pictures/{name})" for name in result["pictures"])


def _noise_left(result: Result) -> Iterator[str]:
    """What the noise itself does to the picture, where the model does not remove it."""
    rows = list(result["mean"].get("noise level", {}).items())
    if len(rows) > 1 and rows[-1][1]["psnr"] < rows[0][1]["psnr"]:
        (least, first), (most, last) = rows[0], rows[-1]
        yield (
            f"But the noise itself stays in the picture: {first['psnr']:.1f} dB at noise level "
            f"{least}, {last['psnr']:.1f} dB at {most}."
        )


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
    Question(
        title="What does it make of generated clips?",
        benchmark="no_reference",
        about="Nine frames of clips that video models made, at twice the size and frames; there is "
        "no truth. NIQE and BRISQUE: lower is more natural; of the bicubically enlarged input, and "
        "of NANO's key frames / new frames. Ewarp: change from key frame to key frame along the "
        "motion of the input; blur lowers it too. tdiff: how far changes between key frames are "
        "from the input's. Seconds are from PNG to PNG, loading included; one run each. "
        "`make bench-generated` fetches the clips, which are for measuring only.",
        columns=("clip", "frames of", "NIQE", "BRISQUE", "Ewarp", "tdiff", "seconds a frame"),
        rows=generated_rows,
        reading=generated_reading,
        has_cards=False,
    ),
)
