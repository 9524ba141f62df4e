"""Does it pay to take the colours of the input, and how?

Every second of 17 true frames, 4x smaller, is enlarged by nano to 4x the size and 2x the frames,
with each value of `--color-fix`. The colour error is the mean absolute difference, in grey levels
of 255, between the means of blocks of 16x16 pixels in the result and in the truth. A fix "wins" if
no clip has a higher LPIPS than without it, and every clip a colour error that is 5 % lower.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.measuring import four, make_parser, report, save
from benchmarks.quality import metrics
from benchmarks.quality.clips import (
    CLIPS,
    MAIN,
    QualityError,
    choose_clips,
    cut_to_fit,
    degrade,
    load_clip,
)
from benchmarks.quality.methods import enhanced
from benchmarks.quality.metrics import Frames
from venhancer.config import NANO, ColorFix
from venhancer.device import choose_device

MODULE = "benchmarks.questions.colour_fixes"
BLOCK = 16  # pixels a side
NONE: ColorFix = "none"
LESS = 0.95  # of the colour error without a fix: what is worth reading the input once more

Row = dict[str, float]
Rows = Mapping[str, Row]  # by fix


def block_means(frames: Frames) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Average over blocks of pixels: f H W 3 -> f rows columns 3; the rest at the edges is left."""
    count, height, width = frames.shape[0], frames.shape[1] // BLOCK, frames.shape[2] // BLOCK
    cut = frames[:, : height * BLOCK, : width * BLOCK]
    blocks = cut.reshape(count, height, BLOCK, width, BLOCK, 3)
    return np.asarray(blocks.mean(axis=(2, 4)), dtype=np.float64)


def colour_error(made: Frames, truth: Frames) -> float:
    """Measure how far the colours of blocks are from the truth, in grey levels."""
    return float(np.abs(block_means(made) - block_means(truth)).mean())


def measure(truth: Frames, device: str, lpips: metrics.Lpips) -> dict[str, Row]:
    """Enlarge with every fix -> its colour error, its LPIPS and the seconds of a run."""
    low, found = degrade(truth), {}
    for fix in get_args(ColorFix):
        made, run = enhanced(low, {"color_fix": fix, "device": device})
        distances = [lpips(*pair) for pair in zip(made, truth, strict=True)]
        found[fix] = {
            "colour_error": four(colour_error(made, truth)),
            "lpips": four(statistics.fmean(distances)),
            "fix_seconds_per_frame": four(run.seconds.get("colours", 0.0) / len(low)),
        }
    return found


def winner(clips: Mapping[str, Rows]) -> str:
    """Name the fix that wins; of several, the one with the lowest mean colour error."""
    better = [fix for fix in get_args(ColorFix) if all(_wins(fix, r) for r in clips.values())]
    return min(better, key=lambda fix: mean_of(clips, fix, "colour_error"), default=NONE)


def _wins(fix: str, rows: Rows) -> bool:
    own, without = rows[fix], rows[NONE]
    is_nearer = own["colour_error"] < LESS * without["colour_error"]
    return is_nearer and own["lpips"] <= without["lpips"]


def mean_of(clips: Mapping[str, Rows], fix: str, key: str) -> float:
    """Average a figure of a fix over the clips."""
    return statistics.fmean(rows[fix][key] for rows in clips.values())


def show(clip: str, rows: Rows) -> None:
    for fix, row in rows.items():
        print(
            f"{clip} {fix:8} colour error {row['colour_error']:.4f}, LPIPS {row['lpips']:.4f}, "
            f"{row['fix_seconds_per_frame']:.2f} s a key frame",
            flush=True,
        )


def run(argv: Sequence[str] | None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `make data` filled")
    parser.add_argument("--clips", help="with commas (default: all)")
    parser.add_argument("--frames", type=int, default=17, help="true frames of a clip, odd")
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    lpips = metrics.Lpips(args.data / "metrics" / "alexnet.ckpt")
    clips: dict[str, dict[str, Row]] = {}
    found: dict[str, Any] = {"model": NANO.name, "frames": args.frames, "clips": clips}
    for clip in choose_clips(CLIPS, args.clips):
        truth = cut_to_fit(load_clip(clip, args.data / "validation"), MAIN)[: args.frames]
        clips[clip.name] = measure(truth, device, lpips)
        show(clip.name, clips[clip.name])
        save(MODULE, device, found, args.out)
    report(MODULE, device, {**found, "winner": winner(clips)}, args.out)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run(argv)
    except (QualityError, metrics.MetricError) as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
