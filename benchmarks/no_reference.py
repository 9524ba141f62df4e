"""Clips that video models made, at twice the size and frames by the built-in model.

There is no truth: frames are judged by NIQE and BRISQUE (lower is more natural), beside the
bicubically enlarged input. Ewarp is the change along the motion of that input, from key frame to
key frame; tdiff how far changes between them are from those of the input.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from benchmarks import metrics
from benchmarks.baselines import bicubic_repeat
from benchmarks.data_generated import CLIPS
from benchmarks.metrics import Frames, MetricError
from benchmarks.no_reference_metrics import FETCH, Brisque, Niqe
from benchmarks.pictures import save_sheet
from benchmarks.quality import enhanced
from benchmarks.timing import make_parser, report
from venhancer.device import choose_device

MODULE = "benchmarks.no_reference"
SCALE, INTERPOLATE, FRAMES = 2, 2, 9  # frames of the input

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


def measure(low: Frames, judges: Judges, device: str) -> tuple[dict[str, Row], dict[str, Frames]]:
    """A row for the enlarged input and one for nano, whose new frames count apart; and frames."""
    options = {"scale": SCALE, "interpolate": INTERPOLATE, "device": device, "scene_cuts": False}
    made, done = enhanced(low, options)
    keys, new = made[::INTERPOLATE], made[1::INTERPOLATE]
    plain = bicubic_repeat(low, SCALE, 1)
    moving = metrics.warping_errors({"input": plain, "nano": keys}, plain)
    rows = {
        "input": judged(plain, judges) | {"ewarp": moving["input"]},
        "nano": judged(keys, judges, "_key")
        | judged(new, judges, "_new")
        | {
            "ewarp": moving["nano"],
            "tdiff": metrics.frame_difference_error(keys, plain),
            "seconds_per_frame": done.wall / len(made),
        },
    }
    middle = len(new) // 2
    return rows, {"input, bicubic": plain[middle], "nano": keys[middle], "nano, new": new[middle]}


def median(clips: Mapping[str, Mapping[str, Row]]) -> dict[str, Row]:
    """Every figure, over the clips."""
    return {
        method: {key: statistics.median(c[method][key] for c in clips.values()) for key in row}
        for method, row in next(iter(clips.values())).items()
    }


def run(data: Path, device: str, pictures: Path | None) -> dict[str, Any]:
    judges = load_judges(data / "metrics")
    clips: dict[str, dict[str, Row]] = {}
    for name in CLIPS:
        low = load(data / "generated" / f"{name}.webp")
        clips[name], frames = measure(low, judges, device)
        if pictures is not None:
            save_sheet(pictures / f"{name}.png", frames)
        for method, row in clips[name].items():
            figures = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{name} {low.shape[2]}x{low.shape[1]} {method}: {figures}", flush=True)
    return {"clips": clips, "median": median(clips)}


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--pictures", type=Path, help="folder for side-by-side crops")
    args = parser.parse_args()
    device = choose_device(args.device)
    try:
        report(MODULE, device, run(args.data, device, args.pictures), args.out)
    except MetricError as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
