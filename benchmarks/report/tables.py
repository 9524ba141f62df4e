"""Rows of tables from the figures of one results file, by the benchmark that wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
Row = tuple[str, ...]
NONE = "-"
CARDS = ("A100", "L4", "H200")


def every(result: Result) -> bool:
    """Accept every file of a benchmark."""
    return True


def nothing(result: Result) -> Iterator[str]:
    """Yield no paragraph: the table speaks for itself."""
    return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A table: its question, and the source of its rows."""

    title: str
    benchmark: str
    about: str
    columns: Row  # after the device
    rows: Callable[[Result], Iterator[Row]]
    reading: Callable[[Result], Iterator[str]] = nothing  # paragraphs, computed as well
    has_cards: bool = True  # a row for each card that is to be measured
    wants: Callable[[Result], bool] = every  # selects the files of the benchmark for this table


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gigabytes(size: float | None) -> str:
    return NONE if size is None else f"{size / 1e9:.2f}"


def ranged(found: dict[str, float]) -> str:
    return f"{found['median']:.4g} ({found['least']:.4g} to {found['most']:.4g})"


def ceiling_rows(result: Result) -> Iterator[Row]:
    found = result["ceiling"]
    for dtype, rate in found["matmul"].items():
        yield dtype, f"{rate['tflops']:.4g}", str(rate["size"]), f"{found['copy_gbs']:.4g}"


def step_rows(result: Result) -> Iterator[Row]:
    for case in result["cases"]:
        what = f"{result['preset']}, {case['size']} x {case['window']}"
        for row in case["rows"]:
            flop = row.get("flop", case["flop"])
            way = row["variant"] + ", alone" * ("alone" in row)
            yield (what, f"{flop / 1e12:.3g}", way, row["dtype"], *_taken(row))


def _taken(row: Result) -> Row:
    """Return the figures of a variant's row, or why there are none."""
    if "seconds" not in row:
        return (row.get("failed", NONE), *[NONE] * 4)
    error = row["relative_error"]
    return (
        ranged(row["seconds"]),
        f"{row['times_faster'] or 1:.2f}",
        f"{row['ceiling_share']:.0%}",
        gigabytes(row["peak_bytes"]),
        NONE if error is None else f"{error:.1e}",
    )


def candidate_rows(result: Result) -> Iterator[Row]:
    """Yield a row for each way, then one for each reason why a way could not run."""
    failures: dict[Row, list[str]] = {}
    for case in result["cases"]:
        layer = f"{case['model']}: {case['layer']}"
        for row in case["rows"]:
            way = case["candidate"], row["way"]
            if "failed" in row:
                failures.setdefault((*way, row["failed"]), []).append(layer)
            else:
                yield (way[0], layer, result["dtype"], way[1], *_compared(row))
    for (candidate, name, reason), layers in failures.items():
        where = layers[0] if len(layers) == 1 else f"{len(layers)} layers"
        yield candidate, where, result["dtype"], name, reason, NONE, NONE


def _compared(row: Result) -> Row:
    """Compare with the first way, if that ran."""
    faster, is_same = row.get("times_faster"), row["difference"] == 0
    times = NONE if faster is None else "{median:.2f} ({least:.2f} to {most:.2f})".format(**faster)
    return ranged(row["ms"]), times, "0" if is_same else f"{row['difference']:.1e}"


def vae_rows(result: Result) -> Iterator[Row]:
    for case in result["cases"]:
        what = f"{case['work']}, {case['frames']} x {case['size']}"
        for row in case["rows"]:
            if "failed" in row:
                yield (what, case["dtype"], row["layout"], row["failed"], *[NONE] * 3)
                continue
            yield (
                what,
                case["dtype"],
                row["layout"],
                ranged(row["ms_per_frame"]) + ", alone" * ("alone" in row),
                f"{row['times_faster'] or 1:.2f}",
                f"{row['ceiling_share']:.0%}",
                gigabytes(row["peak_bytes"]),
            )


def run_rows(result: Result) -> Iterator[Row]:
    for run in result["runs"]:
        if "failed" in run:
            what = f"{result['preset']}, {result['output']}"
            yield (what, run["network"], NONE, run["failed"], *[NONE] * 8)
            continue
        steps, near = run["steps"], run.get("psnr_to_plain")
        stages = [f"{name} {seconds:.1f}" for name, seconds in run["stages"].items()]
        yield (
            f"{result['preset']}, {result['output']}",
            run["network"],
            NONE if steps is None else str(steps),
            *(ranged(run[name]) for name in ("seconds", "model_seconds")),
            _both(run, "times_faster"),
            NONE if near is None else f"{near['mean']:.1f}, {near['least']:.1f}",
            *(_both(run, f"seconds_per_{what}") for what in ("frame", "minute")),
            f"{run['ceiling_share']:.0%}" if "ceiling_share" in run else NONE,
            ", ".join(stages),
            gigabytes(run["peak_bytes"]),
        )


def _both(run: Result, name: str) -> str:
    """Format both costs: from file to file, and of the model."""
    if name not in run:
        return NONE
    figures = run[name], run[f"model_{name}"]
    return ", ".join(f"{x:.3g}" if x < 1000 else f"{x:,.0f}" for x in figures)


def growth_rows(result: Result) -> Iterator[Row]:
    for axis, rows in result["axes"].items():
        for row in rows:
            if "failed" in row:
                what = f"{row['frames']} x {row['input']}", f"of {row['window']}"
                yield (axis, *what, str(row["ranks"]), row["failed"], *[NONE] * 3)
                continue
            yield (
                axis,
                f"{row['frames']} x {row['input']}",
                f"{row['windows']} of {row['window']}",
                str(row["ranks"]),
                f"{row['seconds']:.1f}",
                f"{row['seconds_per_output_frame']:.3f}",
                f"{row['ceiling_share']:.0%}",
                gigabytes(row["peak_bytes"]),
            )


def memory_rows(result: Result) -> Iterator[Row]:
    for frames, run in result["runs"].items():
        if "failed" in run:
            yield str(frames), run["failed"], NONE
            continue
        peak = run.get("device_bytes") or run["peak_bytes"]
        yield str(frames), gigabytes(peak), gigabytes(run.get("predicted_bytes"))


def onnx_rows(result: Result) -> Iterator[Row]:
    for name, way in result["ways"].items():
        quality = way["psnr_to_float32"]
        seconds = way["median_denoise_seconds"], way["median_seconds"]
        yield (
            name,
            *(f"{s:.1f}" for s in seconds),
            f"{quality['mean']:.1f}, {quality['least']:.1f}",
        )


def file_rows(result: Result) -> Iterator[Row]:
    wall, ratio = result["seconds"]["wall"], result["ratio"]
    yield (
        str(result["frames"]),
        result["other_commit"],
        f"{wall['this']:.2f}",
        f"{wall['other']:.2f}",
        f"{ratio['cpu']:.3f}",
        f"{ratio['wall']:.3f}",
    )


QUESTIONS = (
    Question(
        title="What could the device do?",
        benchmark="ceiling",
        about="The fastest square matrix product, and a copy that no cache holds. Shares below "
        "are of the rate that was measured in their own run.",
        columns=("precision", "TFLOP/s", "at size", "copy, GB/s"),
        rows=ceiling_rows,
    ),
    Question(
        title="What does one evaluation cost?",
        benchmark="denoise_step",
        about="With guidance where the model has it, so that its two branches count. `plain` is "
        "the release's path in PyTorch, which NANO does not have; times faster is by pairs of "
        "turns, than `plain` where it was measured, else than `eager`. NANO takes one step, so "
        "that what it prepares counts. The error is of x_0, relative (L2), against eager "
        "float32. A way that lacked memory beside the others was measured alone, not in turns. "
        "1280x720 of the released model is what GPUs are measured at.",
        columns=(
            *("model, pixels x frames", "TFLOP", "way", "precision", "seconds (range)"),
            *("times faster", "of the ceiling", "peak GB", "error"),
        ),
        rows=step_rows,
    ),
    Question(
        title="Did reading and writing become slower?",
        benchmark="files",
        about="An 8-bit clip of 1280x720 with sound is probed, read and written as H.264, without "
        "a network, by the code of this commit and by that of another, in turns. The ratio is the "
        "median over rounds of this one's seconds to the other's.",
        columns=("frames", "other commit", "seconds", "the other's", "CPU ratio", "wall ratio"),
        rows=file_rows,
        has_cards=False,
    ),
    Question(
        title="Which exact speed-ups pay?",
        benchmark="candidates",
        about="Ways to compute the same, in turns; layers at random weights. Times faster is by "
        "pairs of turns, than the first way of the layer; a gain is one whose whole range is above "
        "1. The difference is of the outputs, relative (L2), rounding included: up to 2e-3 at "
        "a time in bfloat16, 2e-4 in float16. In float32 all agree within 1e-4 (tests).",
        columns=(
            *("candidate", "layer", "precision", "way", "ms (range)"),
            *("times faster (range)", "difference"),
        ),
        rows=candidate_rows,
    ),
    Question(
        title="What does the autoencoder cost?",
        benchmark="vae",
        about="Stable Diffusion 2.1's, which the released model needs; that of NANO is a fixed "
        "transform.",
        columns=(
            *("work, frames at a time x pixels", "precision", "layout", "ms a frame (range)"),
            *("times faster", "of the ceiling", "peak GB"),
        ),
        rows=vae_rows,
    ),
    Question(
        title="What does a clip cost?",
        benchmark="end_to_end",
        about="From file to file, loading included; the model alone, which is its denoiser, or "
        "RIFE and SPAN; where there are two figures, that is the second. `plain` is the release's "
        "path in PyTorch. Times faster is by pairs of runs, than `plain` or else than RIFE + SPAN; "
        "PSNR is of 8-bit RGB frames before they are encoded, the mean and the worst. A minute is "
        "one of output at 24 frames a second, computed from these runs with the windows of such a "
        "clip; where they overlap, the model sees a frame oftener there than here. NANO: 16 frames "
        "of 512x320, twice the size and frames; the new frames are made by motion, the stage "
        "`between`. Released: 32 frames of 640x360, twice the size.",
        columns=(
            *("model, output", "network", "evaluations", "seconds (range)", "model only (range)"),
            *("times faster", "PSNR, dB", "seconds a frame", "seconds a minute"),
            *("of the ceiling", "seconds per stage", "peak GB"),
        ),
        rows=run_rows,
    ),
    Question(
        title="How does it grow?",
        benchmark="scaling",
        about="Twice the size, all steps of the preset, loading aside; one of four is changed. "
        "Ranks are processes at a time, each with a clip of its own and its share of the cores, or "
        "a card of its own; the memory is that of one.",
        columns=(
            *("changed", "input", "windows", "ranks", "seconds", "seconds a frame"),
            *("of the ceiling", "peak GB"),
        ),
        rows=growth_rows,
    ),
    Question(
        title="Does a longer clip need more memory?",
        benchmark="memory",
        about="NANO at 320x180, twice the size: the peak of the process, or of the card.",
        columns=("frames", "peak GB", "predicted GB"),
        rows=memory_rows,
    ),
    Question(
        title="PyTorch or ONNX Runtime on a CPU?",
        benchmark="onnx_cpu",
        about="NANO on the sample clip, file to file, in turns; PSNR against PyTorch in float32, "
        "the mean and the worst frame.",
        columns=("way", "denoise, seconds", "in all", "PSNR, dB"),
        rows=onnx_rows,
        has_cards=False,
    ),
)
