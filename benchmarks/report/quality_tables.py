"""The tables of quality: nearness to the truth, repair, conditions, and generated clips."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.quality.ablations import claim_line
from benchmarks.quality.goals import goal_cells, goal_lines, judge_goals, verdict_line
from benchmarks.quality.repair import verdict_lines
from benchmarks.quality.rows import COLUMNS, cells, noted
from benchmarks.report.tables import NONE, Question, Result, Row

SHORT = ("PSNR key", "PSNR new", "VMAF", "LPIPS", "grid", "Ewarp", "s/frame", "file to file")


def is_main(result: Result) -> bool:
    return "results" in result and not result.get("held_out", False)


def is_held_out(result: Result) -> bool:
    return bool(result.get("held_out", False))


def has_settings(result: Result) -> bool:
    return "settings" in result and not result.get("held_out", False)


def entries(result: Result) -> list[Result]:
    """Return the entries of a file, one for each setting."""
    found: list[Result] = result.get("settings", [result])
    return found


def clip_rows(entry: Result, columns: tuple[str, ...]) -> Iterator[Row]:
    for clip, rows in entry["results"].items():
        for method, row in rows.items():
            name = noted(method, entry.get("notes", {}))
            yield clip, name, *cells(row, NONE, columns)
        for method, why in entry.get("left_out", {}).items():
            yield clip, method, why, *[NONE] * (len(columns) - 1)


def quality_rows(result: Result) -> Iterator[Row]:
    for entry in entries(result):
        yield from clip_rows(entry, (*COLUMNS,))


def setting_rows(result: Result) -> Iterator[Row]:
    for entry in entries(result):
        for row in clip_rows(entry, SHORT):
            yield (f"{entry['scale']}x space, {entry['interpolate']}x time", *row)


def goal_rows(result: Result) -> Iterator[Row]:
    """Judge the goals anew, so that old files are held to the present goals."""
    for goal in judge_goals(result["results"]) or ():
        yield tuple(goal_cells(goal))


def verdict(result: Result) -> Iterator[str]:
    """Compare nano with the baselines in one line."""
    yield f"- {verdict_line(result.get('verdict'))}"


def held_out_reading(result: Result) -> Iterator[str]:
    for entry in entries(result):
        lines = [verdict_line(entry.get("verdict")), *goal_lines(judge_goals(entry["results"]))]
        yield "\n".join(f"- {line}" for line in lines)


def setting_reading(result: Result) -> Iterator[str]:
    """Yield the number of goals reached at each setting."""
    lines = []
    for entry in entries(result):
        goals = [g for g in judge_goals(entry["results"]) or () if g["reached"] is not None]
        reached = sum(goal["reached"] for goal in goals)
        name = f"{entry['scale']}x space, {entry['interpolate']}x time"
        missed = ", ".join(goal["key"] for goal in goals if not goal["reached"])
        lines.append(f"- {name}: {reached} of {len(goals)} goals reached" + _but(missed))
    yield "\n".join(lines)


def _but(missed: str) -> str:
    return f"; not {missed}." if missed else "."


def repair_rows(result: Result) -> Iterator[Row]:
    for clip, inputs in result["clips"].items():
        for flaw, rows in inputs.items():
            for method, row in rows.items():
                yield clip, flaw, method, f"{row['psnr']:.2f}", f"{row['lpips']:.3f}"


def repair_reading(result: Result) -> Iterator[str]:
    """Yield the verdicts, then the pictures."""
    yield "\n".join(f"- {line}" for line in verdict_lines(result["verdicts"]))
    yield from (f"![{name}](pictures/{name})" for name in result["pictures"])


ABOUT = (
    "RIFE makes the new frames at the small size, then SPAN, BasicVSR or Real-ESRGAN animevideov3 "
    "enlarges all of them, on the processor. `grid` is energy at the codec's 4-pixel period, "
    "`detail` high-frequency energy relative to the truth, Ewarp the warping error (flicker), "
    "tdiff the error of frame differences. Seconds a frame of `nano` are from PNG to PNG, loading "
    "included; those of the others are of their frames alone. File to file is from an mp4 to an "
    "mp4, loading included. One run each."
)


def of_quality(
    title: str,
    about: str,
    columns: Row,
    rows: Callable[[Result], Iterator[Row]],
    wants: Callable[[Result], bool],
    **more: Any,
) -> Question:
    return Question(
        title=title,
        benchmark="quality",
        about=about,
        columns=columns,
        rows=rows,
        wants=wants,
        has_cards=False,
        **more,
    )


FIDELITY = (
    of_quality(
        "How near is it to the truth?",
        "17 frames of three real clips: every second one, 4x smaller, goes in. Key frames were "
        f"only enlarged, the others are new. {ABOUT}",
        ("clip", "method", *COLUMNS),
        quality_rows,
        is_main,
        reading=verdict,
    ),
    of_quality(
        "Which goals of quality are reached?",
        "Of the same run, beside RIFE + SPAN: the figure of every clip, its bound in brackets.",
        ("goal", "clips", "verdict"),
        goal_rows,
        is_main,
    ),
    of_quality(
        "And on clips that nothing was chosen by?",
        "The same at other places of the same three files. They were measured after the model was "
        "chosen, and never before.",
        ("clip", "method", *COLUMNS),
        quality_rows,
        is_held_out,
        reading=held_out_reading,
    ),
    of_quality(
        "And at other sizes and rates?",
        "The same clips, with frames left out and made smaller by other factors. Rows say in "
        "brackets how a peer reaches a factor that it has no weights for, or that it cannot.",
        ("asked", "clip", "method", *SHORT),
        setting_rows,
        has_settings,
        reading=setting_reading,
    ),
    Question(
        title="What does it repair?",
        benchmark="repair",
        about="Nine key frames of three real clips (those of `quality`), 4x smaller, with Gaussian "
        "noise of 10 grey levels, or after H.264 at crf 36; enlarged by plain bicubic and by NANO "
        "at several levels of `--refine`. Against the truth.",
        columns=("clip", "input", "method", "PSNR, dB", "LPIPS"),
        rows=repair_rows,
        reading=repair_reading,
        has_cards=False,
    ),
)


# --- the built-in model's conditions, and generated clips -----------------------------------------


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
    """Count how often nano is more natural, or steadier, than each of the others."""
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
    """Count the clips in which nano's figure is lower, and give the median difference."""
    clips = [(_key(rows["nano"], key), _key(rows[other], key)) for rows in result["clips"].values()]
    lower = sum(nano < theirs for nano, theirs in clips)
    change = statistics.median(nano - theirs for nano, theirs in clips)
    return f"in {lower} of {len(clips)} clips, median {change:+.2f}"


def _key(row: Result, key: str) -> float:
    """Return the figure of key frames if new ones are apart, else the figure of all."""
    return float(row[f"{key}_key"] if f"{key}_key" in row else row[key])


def _figures(row: Result, forms: Mapping[str, str]) -> Iterator[str]:
    return (_figure(row, key, form) for key, form in forms.items())


def _figure(row: Result, key: str, form: str) -> str:
    """Format one figure, or those of key frames and of new ones."""
    if f"{key}_key" in row:
        return " / ".join(f"{row[f'{key}_{kind}']:{form}}" for kind in ("key", "new"))
    return f"{row[key]:{form}}" if key in row else NONE


def ablation_reading(result: Result) -> Iterator[str]:
    """Yield the claims with their verdicts, then the pictures."""
    yield "\n".join(f"- {claim_line(*claim)}" for claim in result["claims"].items())
    yield from (f"![{name}](pictures/{name})" for name in result["pictures"])


def colour_rows(result: Result) -> Iterator[Row]:
    for clip, rows in result["clips"].items():
        for fix, row in rows.items():
            yield clip, fix, *_figures(row, COLOURS)


COLOURS = {"colour_error": ".3f", "lpips": ".4f", "fix_seconds_per_frame": ".2f"}


def colour_reading(result: Result) -> Iterator[str]:
    """Yield the fix that wins."""
    yield f"- The winner: {result['winner']}."


QUALITY = (
    Question(
        title="Which colour fix pays?",
        benchmark="colour_fixes",
        about="17 frames of three real clips (those of `quality`), with each `--color-fix` of the "
        "built-in model at 4x size and 2x frames. The colour error is the mean absolute difference "
        "between the means of 16x16 pixels in the result and in the truth, in grey levels of 255. "
        "A fix wins if every clip has a colour error that is 5 % lower than without it, and no "
        "clip a higher LPIPS. The mean and the spread of an enlarged input are not those of the "
        "truth, whose detail has a spread of its own: `adain` and `lab` take contrast away from "
        "the detail that the model adds. Seconds are those of the fix alone; one run each.",
        columns=("clip", "fix", "colour error", "LPIPS", "seconds a key frame"),
        rows=colour_rows,
        reading=colour_reading,
        has_cards=False,
    ),
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
