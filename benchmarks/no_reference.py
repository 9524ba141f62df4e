"""Clips that video models made, at twice the size and frames, by nano and by others.

There is no truth: frames are judged by NIQE and BRISQUE (lower is more natural), enlarged ones and
new ones apart. Ewarp is the change along the motion of the bicubically enlarged input, from key
frame to key frame; tdiff how far changes between them are from those of that input. Seconds are
those of the method's own frames; those of nano are from PNG to PNG, loading included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from benchmarks import metrics
from benchmarks.baselines import bicubic_repeat
from benchmarks.data_generated import CLIPS
from benchmarks.metrics import Frames, MetricError
from benchmarks.no_reference_metrics import FETCH, Brisque, Niqe
from benchmarks.peer_files import PeerError
from benchmarks.peer_methods import Method
from benchmarks.pictures import beside, detailed_region, panel
from benchmarks.quality_clips import QualityError, Setting
from benchmarks.quality_goals import BASELINES, RIVAL
from benchmarks.quality_methods import choose_methods
from benchmarks.timing import make_parser, report
from venhancer.device import choose_device

MODULE = "benchmarks.no_reference"
SETTING = Setting(scale=2, interpolate=2)
FRAMES = 9  # of the input
METHODS = (*BASELINES, RIVAL, "nano")

Row = dict[str, float]
Judges = Mapping[str, Callable[[Frames], float]]  # of one frame


def load(path: Path) -> Frames:
    """The first frames of an animated picture: f h w 3."""
    if not path.is_file():
        raise MetricError(f"{path} is missing: {FETCH}")
    frames = []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")))
            if len(frames) == FRAMES:
                break
    return np.stack(frames)


def load_judges(folder: Path) -> Judges:
    return {
        "niqe": Niqe(folder / "niqe.npz"),
        "brisque": Brisque(folder / "brisque_svm.txt", folder / "brisque_ranges.pickle"),
    }


def judged(frames: Frames, judges: Judges, kind: str = "") -> Row:
    """Means over the frames."""
    return {
        name + kind: statistics.fmean(judge(frame) for frame in frames)
        for name, judge in judges.items()
    }


def measure(
    low: Frames, judges: Judges, methods: Mapping[str, Method]
) -> tuple[dict[str, Row], dict[str, Frames]]:
    """A row for each method, and its frames."""
    plain = bicubic_repeat(low, SETTING.scale, 1)
    rows: dict[str, Row] = {}
    made: dict[str, Frames] = {}
    for name, method in methods.items():
        started = time.perf_counter()
        made[name] = method(low)
        seconds = (time.perf_counter() - started) / len(made[name])
        keys, new = made[name][:: SETTING.interpolate], made[name][1 :: SETTING.interpolate]
        rows[name] = judged(keys, judges, "_key") | judged(new, judges, "_new")
        rows[name]["tdiff"] = metrics.frame_difference_error(keys, plain)
        rows[name]["seconds_per_frame"] = seconds
    keys_of = {name: frames[:: SETTING.interpolate] for name, frames in made.items()}
    for name, value in metrics.warping_errors(keys_of, plain).items():
        rows[name]["ewarp"] = value
    return rows, made


def save_crops(path: Path, made: Mapping[str, Frames]) -> None:
    """What each method made of one region: a key frame in the upper row, a new one below."""
    key = FRAMES // 2 * SETTING.interpolate
    region = detailed_region(next(iter(made.values()))[key])
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        beside([panel(frames[index], region, f"{name}, {kind}") for name, frames in made.items()])
        for index, kind in ((key, "key"), (key + 1, "new"))
    ]
    sheet = Image.new("RGB", (rows[0].width, 2 * rows[0].height))
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * row.height))
    sheet.save(path)


def median(clips: Mapping[str, Mapping[str, Row]]) -> dict[str, Row]:
    """Every figure, over the clips."""
    return {
        method: {key: statistics.median(c[method][key] for c in clips.values()) for key in row}
        for method, row in next(iter(clips.values())).items()
    }


def run(args: argparse.Namespace, device: str) -> dict[str, Any]:
    judges = load_judges(args.data / "metrics")
    options = {"device": device, "scene_cuts": False, "weights": args.weights}
    methods = choose_methods(args.methods.split(","), options, args.data / "peers", SETTING)
    clips: dict[str, dict[str, Row]] = {}
    for name in args.clips.split(","):
        low = load(args.data / "generated" / f"{name}.webp")
        clips[name], made = measure(low, judges, methods)
        if args.pictures is not None:
            save_crops(args.pictures / f"{name}.png", made)
        for method, row in clips[name].items():
            figures = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{name} {low.shape[2]}x{low.shape[1]} {method}: {figures}", flush=True)
    return {"clips": clips, "median": median(clips)}


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas")
    parser.add_argument("--clips", default=",".join(CLIPS), help="with commas")
    parser.add_argument("--weights", type=Path, help="of nano (default: the built-in ones)")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--pictures", type=Path, help="folder for crops to look at: do not publish")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    device = choose_device(args.device)
    try:
        report(MODULE, device, run(args, device), args.out)
    except (MetricError, PeerError, QualityError) as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
