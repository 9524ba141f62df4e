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
    """How often nano is more natural, or steadier, than each of the others."""
    others = [name for name in next(iter(result["clips"].values())) if name != "nano"]
    yield "\n".join(
        f"- {title} than {other}: {_lower(result, other, key)}."
        for title, key in (
            ("NIQE of key frames lower", "niqe"),
            ("BRISQUE of key frames lower", "brisque"),
            ("Ewarp lower", "ewarp"),
        )
        for other in others
    )


def _lower(result: Result, other: str, key: str) -> str:
    """In how many clips, and the median of the differences."""
    clips = [(_key(rows["nano"], key), _key(rows[other], key)) for rows in result["clips"].values()]
    lower = sum(nano < theirs for nano, theirs in clips)
    change = statistics.median(nano - theirs for nano, theirs in clips)
    return f"in {lower} of {len(clips)} clips, median {change:+.2f}"


def _key(row: Result, key: str) -> float:
    """A figure of key frames, where new ones are apart."""
    return float(row[f"{key}_key"] if f"{key}_key" in row else row[key])


def _figures(row: Result, forms: Mapping[str, str]) -> Iterator[str]:
    return (_figure(row, key, form) for key, form in forms.items())


def _figure(row: Result, key: str, form: str) -> str:
    """One, or those of key frames and of new ones."""
    if f"{key}_key" in row:
        return " / ".join(f"{row[f'{key}_{kind}']:{form}}" for kind in ("key", "new"))
    return f"{row[key]:{form}}" if key in row else NONE


def ablation_reading(result: Result) -> Iterator[str]:
    """The claims with what they come to, then the pictures."""
    yield "\n".join(f"- {claim_line(*claim)}" for claim in result["claims"].items())
    yield from (f"![{name}](pictures/{name})" for name in result["pictures"])


QUALITY = (
    Question(
        title="What do the conditions of the built-in model do?",
        benchmark="ablations",
        about="The paper's ablations with NANO on 80x48 pixels of three real clips (those of "
        "`quality`), the mean over them: what it is told of a downscaling of 4; `--refine`, on an "
        "input with Gaussian noise of 10 grey levels and on a clean one; the size asked for, "
        "exactly; how many times the frames (key frames / new ones). Detail is high-frequency "
        "energy over that of the truth. What is left of the noise is over what is left of the "
        "picture, which fades where its share is below 1.",
        columns=(
            *("changed", "setting", "PSNR, dB", "SSIM", "LPIPS", "detail", "noise left"),
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
        "no truth. NIQE and BRISQUE: lower is more natural; of key frames / new frames. RIFE makes "
        "the new frames of rife-span, then SPAN enlarges all. Ewarp: change from key frame to key "
        "frame along the motion of the input; blur lowers it too. tdiff: how far changes between "
        "key frames are from those of the bicubically enlarged input. Seconds of nano are from PNG "
        "to PNG, loading included, those of the others of their frames alone; one run each. `make "
        "bench-generated` fetches the clips, which are for measuring only.",
        columns=("clip", "method", "NIQE", "BRISQUE", "Ewarp", "tdiff", "seconds a frame"),
        rows=generated_rows,
        reading=generated_reading,
        has_cards=False,
    ),
)
