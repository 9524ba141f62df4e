"""What a student does in few evaluations, beside its teacher with as many, and with fourteen.

At 4x size and 2x frames of the clips of `quality`, their first 9 frames, the middle 640x360 of
them. Everything is sampled as students are: evenly spaced evaluations of the ODE. A row keeps up
with the teacher's fourteen evaluations where, by the mean over the clips, it loses no more than 0.3
dB of the enlarged frames and of the new ones, and 0.01 LPIPS.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import metrics
from benchmarks.metrics import Frames
from benchmarks.quality_clips import CLIPS, degrade, load_clip
from benchmarks.quality_methods import enhanced
from benchmarks.timing import make_parser, report
from venhancer.device import choose_device

MODULE = "benchmarks.distillation"
FRAMES, WIDTH, HEIGHT = 9, 640, 360
MANY, FEW = 14, (4, 2, 1)
PSNR_LOSS, LPIPS_LOSS = 0.3, 0.01

Row = dict[str, float]
Run = tuple[str, int]  # whose weights, evaluations
REFERENCE: Run = ("teacher", MANY)
RUNS: tuple[Run, ...] = (REFERENCE, *((who, n) for who in ("teacher", "student") for n in FEW))


def middle(frames: Frames) -> Frames:
    """The first frames, cut to at most the size: f H W 3 -> 9 h w 3."""
    height, width = frames.shape[1:3]
    top, left = (max(0, n - most) // 2 for n, most in ((height, HEIGHT), (width, WIDTH)))
    return frames[:FRAMES, top : top + HEIGHT, left : left + WIDTH]


def measure_clip(
    truth: Frames, weights: Mapping[str, Path], device: str, lpips: metrics.Lpips
) -> dict[Run, Row]:
    """Against the truth, and against the teacher's fourteen evaluations."""
    low = degrade(truth)
    common = {"device": device, "solver": "normal", "eta": 0.0}
    made = {
        (who, steps): enhanced(low, {**common, "weights": weights[who], "steps": steps})[0]
        for who, steps in RUNS
    }
    return {run: beside(frames, truth, made[REFERENCE], lpips) for run, frames in made.items()}


def beside(frames: Frames, truth: Frames, taught: Frames, lpips: metrics.Lpips) -> Row:
    """Of enlarged frames, of new ones, of all."""
    psnr = list(map(metrics.psnr, frames, truth))
    row = {
        "psnr_even": statistics.fmean(psnr[::2]),
        "psnr_odd": statistics.fmean(psnr[1::2]),
        "lpips": statistics.fmean(map(lpips, frames, truth)),
    }
    if frames is not taught:
        row["psnr_teacher"] = statistics.fmean(map(metrics.psnr, frames, taught))
    return row


def summary(clips: Sequence[Mapping[Run, Row]]) -> list[dict[str, Any]]:
    """Means over the clips, and what each row loses to the teacher's fourteen evaluations."""
    means = {
        run: {key: statistics.fmean(clip[run][key] for clip in clips) for key in row}
        for run, row in clips[0].items()
    }
    return [
        {"network": who, "evaluations": steps, **row, **losses(row, means[REFERENCE])}
        for (who, steps), row in means.items()
    ]


def losses(row: Row, reference: Row) -> dict[str, Any]:
    """In dB and in LPIPS, above 0 where the row is worse, and whether it keeps up."""
    even, odd = (reference[key] - row[key] for key in ("psnr_even", "psnr_odd"))
    lpips = row["lpips"] - reference["lpips"]
    keeps_up = max(even, odd) <= PSNR_LOSS and lpips <= LPIPS_LOSS
    return {"loses_even": even, "loses_odd": odd, "loses_lpips": lpips, "keeps_up": keeps_up}


def line(row: Mapping[str, Any]) -> str:
    name = f"{row['network']}, {row['evaluations']} evaluations"
    told = f", {row['psnr_teacher']:.1f} dB to the reference" if "psnr_teacher" in row else ""
    return (
        f"{name:25} PSNR {row['psnr_even']:.2f} enlarged, {row['psnr_odd']:.2f} new, "
        f"LPIPS {row['lpips']:.4f}; loses {row['loses_even']:.2f} dB, {row['loses_odd']:.2f} dB, "
        f"{row['loses_lpips']:.4f}{told}; {'keeps up' if row['keeps_up'] else 'does NOT keep up'}"
    )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--teacher", type=Path, required=True, metavar="FILE")
    parser.add_argument("--student", type=Path, required=True, metavar="FILE")
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `make data` filled")
    args = parser.parse_args()
    device = choose_device(args.device)
    lpips = metrics.Lpips(args.data / "metrics" / "alexnet.ckpt")
    weights = {"teacher": args.teacher, "student": args.student}
    clips: dict[str, dict[Run, Row]] = {}
    for clip in CLIPS:
        truth = middle(load_clip(clip, args.data / "validation"))
        clips[clip.name] = measure_clip(truth, weights, device, lpips)
        print(clip.name, *map(line, summary([clips[clip.name]])), sep="\n", flush=True)
    rows = summary([*clips.values()])
    print("all clips", *map(line, rows), sep="\n")
    each = {name: summary([found]) for name, found in clips.items()}
    report(MODULE, device, {"rows": rows, "clips": each}, args.out)


if __name__ == "__main__":
    main()
