"""Measure what `--refine` repairs: noise and compression in the input frames.

Every second of 17 true frames, 4x smaller, with Gaussian noise of 10 grey levels or after H.264 at
crf 36, is enlarged by plain bicubic and by nano at several levels of `--refine`; PSNR and LPIPS are
to the truth. "Repaired" means: `--refine 100` is closer in both than `--refine 0` and than bicubic.
`--clean-weights` names weights trained without flaws, to measure nano's loss against them on clean
input.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measuring import make_parser, report, shown
from benchmarks.quality import metrics
from benchmarks.quality.clips import (
    CLIPS,
    DEGRADATIONS,
    MAIN,
    QualityError,
    choose_clips,
    cut_to_fit,
    degrade,
    load_clip,
    rate_of,
)
from benchmarks.quality.methods import bicubic_repeat, enhanced
from benchmarks.quality.metrics import Frames
from benchmarks.quality.pictures import detailed_region, save_rows
from venhancer.device import choose_device

MODULE = "benchmarks.quality.repair"
LEVELS = (0, 50, 100, 200)
REPAIR = 100
PLAIN = "bicubic"
CLEAN, OTHER = "clean", "refine 0, trained without flaws"
LOSS_LIMIT = 0.1  # dB on clean input
PICTURED = (PLAIN, "refine 0", f"refine {REPAIR}")
PANEL = 240, 160  # pixels
PICTURE_BYTES = 400_000

Row = dict[str, float]
Rows = Mapping[str, Row]  # by method
Inputs = Mapping[str, Rows]  # by the input's flaw
Enhance = Callable[..., Frames]  # low-resolution frames, options by name


def inputs_of(low: Frames, rate: Fraction) -> dict[str, Frames]:
    """Make the inputs: the small frames unchanged, and with every flaw."""
    return {CLEAN: low, **{name: flaw(low, rate) for name, flaw in DEGRADATIONS.items()}}


def enhancer(options: Mapping[str, Any]) -> Enhance:
    """Make a function that runs nano on key frames alone: no new ones are made."""
    common = {"scale": MAIN.scale, "interpolate": 1, **options}
    return lambda frames, **chosen: enhanced(frames, {**common, **chosen})[0]


def measure(
    low: Frames, truth: Frames, enhance: Enhance, lpips: metrics.Lpips
) -> tuple[dict[str, Row], dict[str, Frames]]:
    """Measure every method -> a row for each, and its frames."""
    made = {PLAIN: bicubic_repeat(low, MAIN.scale, 1)}
    made |= {f"refine {level}": enhance(low, refine=level) for level in LEVELS}
    return {name: row_of(frames, truth, lpips) for name, frames in made.items()}, made


def row_of(made: Frames, truth: Frames, lpips: metrics.Lpips) -> Row:
    if made.shape != truth.shape:
        raise QualityError(f"nano made {made.shape}, expected {truth.shape}")
    pairs = list(zip(made, truth, strict=True))
    return {
        "psnr": statistics.fmean(metrics.psnr(*pair) for pair in pairs),
        "lpips": statistics.fmean(lpips(*pair) for pair in pairs),
    }


# --- verdicts -----------------------------------------------------------------------------------


def is_repaired(rows: Rows) -> bool:
    """Tell if `--refine 100` is closer to the truth in both figures than 0 and bicubic."""
    best = rows[f"refine {REPAIR}"]
    others = rows["refine 0"], rows[PLAIN]
    return all(best["psnr"] > o["psnr"] and best["lpips"] < o["lpips"] for o in others)


def judge(clips: Mapping[str, Inputs]) -> dict[str, dict[str, Any]]:
    """Judge each flaw by clip, and the loss on clean input if that was measured."""
    found: dict[str, dict[str, Any]] = {}
    for flaw in DEGRADATIONS:
        each = {name: is_repaired(inputs[flaw]) for name, inputs in clips.items()}
        found[flaw] = {"reached": all(each.values()), "clips": each}
    losses = {
        name: inputs[CLEAN][OTHER]["psnr"] - inputs[CLEAN]["refine 0"]["psnr"]
        for name, inputs in clips.items()
        if OTHER in inputs[CLEAN]
    }
    if losses:
        each = {name: loss <= LOSS_LIMIT for name, loss in losses.items()}
        found[CLEAN] = {"reached": all(each.values()), "clips": each, "losses": losses}
    return found


def verdict_lines(verdicts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each verdict."""
    for flaw, verdict in verdicts.items():
        goal = (
            f"clean input: refine 0 loses at most {LOSS_LIMIT:g} dB by being trained to repair"
            if flaw == CLEAN
            else f"{flaw}: refine {REPAIR} is closer to the truth than refine 0 and {PLAIN}, "
            "in PSNR and LPIPS"
        )
        losses = verdict.get("losses", {})
        clips = ", ".join(
            f"{name} {f'{losses[name]:+.3f} dB ' if losses else ''}{_word(reached)}"
            for name, reached in verdict["clips"].items()
        )
        yield f"{goal}: {clips}; {_word(verdict['reached'])}"


def _word(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


# --- pictures -----------------------------------------------------------------------------------


def panels(clip: str, flaw: str, made: Mapping[str, Frames], truth: Frames) -> dict[str, Frames]:
    """Crop the most detailed region of the middle frame, from each method and the truth."""
    index = len(truth) // 2
    height, width = truth.shape[1:3]
    left, top, *_ = detailed_region(truth[index])
    left, top = max(0, min(left, width - PANEL[0])), max(0, min(top, height - PANEL[1]))
    cut = np.s_[top : top + PANEL[1], left : left + PANEL[0]]
    found = {name: made[name][index] for name in PICTURED} | {"truth": truth[index]}
    named = {f"{clip}, {flaw}: {name}": _filled(frame[cut]) for name, frame in found.items()}
    return {name.replace(f": {PLAIN}", f": input, {PLAIN}"): f for name, f in named.items()}


def _filled(frame: Frames) -> Frames:
    """Fill a panel's size with the frame, black beyond the picture's edges."""
    image = Image.new("RGB", PANEL)
    image.paste(Image.fromarray(frame))
    return np.asarray(image)


# --- command ------------------------------------------------------------------------------------


def measure_clip(
    truth: Frames,
    rate: Fraction,
    enhance: Enhance,
    clean: Enhance | None,
    lpips: metrics.Lpips,
) -> tuple[dict[str, dict[str, Row]], dict[str, dict[str, Frames]]]:
    """Measure rows and frames of every input; clean: the enhancer trained without flaws."""
    keys = cut_to_fit(truth, MAIN)[:: MAIN.interpolate]
    rows, made = {}, {}
    for flaw, low in inputs_of(degrade(truth), rate / MAIN.interpolate).items():
        rows[flaw], made[flaw] = measure(low, keys, enhance, lpips)
        if flaw == CLEAN and clean is not None:
            rows[flaw][OTHER] = row_of(clean(low, refine=0), keys, lpips)
    return rows, made


def show(clip: str, inputs: Inputs) -> None:
    for flaw, rows in inputs.items():
        for name, row in rows.items():
            print(f"{clip} {flaw:6} {name:32} PSNR {row['psnr']:.2f}, LPIPS {row['lpips']:.4f}")
    sys.stdout.flush()


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `make data` filled")
    parser.add_argument("--clips", help="with commas (default: all)")
    parser.add_argument("--weights", type=Path, help="default: the built-in ones")
    parser.add_argument("--clean-weights", type=Path, help="of training without flaws")
    parser.add_argument("--pictures", type=Path, help="folder for a sheet of crops, repair.jpg")
    return parser


def run(args: argparse.Namespace) -> None:
    device = choose_device(args.device)
    lpips = metrics.Lpips(args.data / "metrics" / "alexnet.ckpt")
    enhance = enhancer({"device": device, "weights": args.weights})
    clean = None
    if args.clean_weights is not None:
        clean = enhancer({"device": device, "weights": args.clean_weights})
    clips: dict[str, dict[str, dict[str, Row]]] = {}
    sheet: list[dict[str, Frames]] = []
    folder = args.data / "validation"
    for clip in choose_clips(CLIPS, args.clips):
        truth = cut_to_fit(load_clip(clip, folder), MAIN)
        clips[clip.name], made = measure_clip(truth, rate_of(clip, folder), enhance, clean, lpips)
        show(clip.name, clips[clip.name])
        keys = truth[:: MAIN.interpolate]
        sheet += [panels(clip.name, flaw, made[flaw], keys) for flaw in DEGRADATIONS]
    verdicts = judge(clips)
    print("\n".join(verdict_lines(verdicts)))
    pictures = []
    if args.pictures is not None:
        save_rows(args.pictures / "repair.jpg", sheet, PICTURE_BYTES)
        pictures = ["repair.jpg"]
    weights = None if args.weights is None else shown(str(args.weights))
    found = {"clips": clips, "verdicts": verdicts, "pictures": pictures, "weights": weights}
    report(MODULE, device, found, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run(build_parser().parse_args(argv))
    except (QualityError, metrics.MetricError) as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
