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
from dataclasses import dataclass
from functools import cache
from math import gamma
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image, ImageSequence

from benchmarks.measuring import make_parser, report
from benchmarks.peers.methods import Method
from benchmarks.peers.networks import PeerError
from benchmarks.quality import metrics
from benchmarks.quality.clips import QualityError, Setting
from benchmarks.quality.methods import bicubic_repeat, choose_methods
from benchmarks.quality.metrics import Frames, MetricError, Plane
from benchmarks.quality.pictures import beside, detailed_region, panel
from benchmarks.quality.rows import BASELINES, RIVAL
from scripts.data_generated import CLIPS
from venhancer.device import choose_device
from venhancer.training.perceptual import ArraysOnly

WINDOW_PIXELS: Final = 7
WINDOW_SIGMA: Final = 7 / 6
NEIGHBOURS: Final = ((0, 1), (1, 0), (1, 1), (1, -1))
TINY: Final = 1e-12
FETCH: Final = "run `make bench-generated`"


@dataclass(frozen=True, slots=True)
class Fit:
    """Asymmetric generalised Gaussians, one for each row of values."""

    power: Plane  # 2 is a Gaussian
    left: Plane  # spread below and above 0
    right: Plane
    width: Plane  # what a spread of 1 is multiplied by to be the distribution's own parameter
    mean: Plane


def fit(values: Plane) -> Fit:
    """By moments: fits n -> fits."""
    squares, is_left = values**2, values < 0
    left, right = (
        np.sqrt((squares * side).sum(axis=1) / np.maximum(side.sum(axis=1), 1))
        for side in (is_left, ~is_left)
    )
    balance = left / np.maximum(right, TINY)
    peak = np.abs(values).mean(axis=1) ** 2 / np.maximum(squares.mean(axis=1), TINY)
    wanted = peak * (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
    powers, ratios, widths, steps = power_table()
    index = np.searchsorted(ratios, wanted).clip(1, len(ratios) - 1)
    index -= wanted - ratios[index - 1] < ratios[index] - wanted  # the nearer of two
    mean = (right - left) * widths[index] * steps[index]
    return Fit(powers[index], left, right, widths[index], mean)


@cache
def power_table() -> tuple[Plane, Plane, Plane, Plane]:
    """Powers, the ratio of moments of each (rising), its width and the mean's factor."""
    powers = np.arange(0.2, 10.001, 0.001)
    first, second, third = (np.array([gamma(k / p) for p in powers]) for k in (1, 2, 3))
    return powers, second**2 / (first * third), np.sqrt(first / third), second / first


def normalised(y: Plane, offset: float, border: int) -> Plane:
    """Luma less its local mean, over its local deviation: H W; border: what lies around it."""
    kernel = cv2.getGaussianKernel(WINDOW_PIXELS, WINDOW_SIGMA)
    mean, power = (
        cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel, borderType=border)
        for plane in (y, y * y)
    )
    return np.asarray((y - mean) / (np.sqrt(np.abs(power - mean * mean)) + offset))


def products(blocks: Plane) -> list[Plane]:
    """Of every value with each of four neighbours: blocks h w -> four times blocks n."""
    rolled = [blocks * np.roll(blocks, by, axis=(1, 2)) for by in NEIGHBOURS]
    return [plane.reshape(len(blocks), -1) for plane in rolled]


def check_file(path: Path) -> None:
    if not path.is_file():
        raise MetricError(f"{path} is missing: {FETCH}")


class Niqe:
    """Distance of a frame's statistics from those of natural pictures (Mittal et al. 2013)."""

    BLOCK: Final = 96

    def __init__(self, parameters: Path) -> None:
        check_file(parameters)
        with np.load(parameters) as found:
            self.mean, self.covariance = found["mu_pris_param"][0], found["cov_pris_param"]

    def __call__(self, frame: Frames) -> float:
        """Of 96x96 blocks, whatever is left over at the right and the bottom left out."""
        rows, columns = (side // self.BLOCK for side in frame.shape[:2])
        if not rows * columns > 1:
            raise MetricError(f"a frame of {frame.shape[1]}x{frame.shape[0]} is too small for NIQE")
        studio = frame.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16
        y = studio.round()[: rows * self.BLOCK, : columns * self.BLOCK]
        half = Image.fromarray(y.astype(np.float32)).resize(
            (y.shape[1] // 2, y.shape[0] // 2), Image.Resampling.BICUBIC
        )
        planes = (y, self.BLOCK), (np.asarray(half, dtype=np.float64), self.BLOCK // 2)
        found = np.hstack([self.features(plane, block) for plane, block in planes])
        apart = found.mean(axis=0) - self.mean
        spread = (self.covariance + np.cov(found, rowvar=False)) / 2
        return float(np.sqrt(apart @ np.linalg.pinv(spread) @ apart))

    @staticmethod
    def features(y: Plane, block: int) -> Plane:
        """H W -> blocks 18."""
        rows, columns = (side // block for side in y.shape)
        parts = normalised(y, 1.0, cv2.BORDER_REPLICATE).reshape(rows, block, columns, block)
        blocks = parts.swapaxes(1, 2).reshape(-1, block, block)
        whole = fit(blocks.reshape(len(blocks), -1))
        found = [whole.power, (whole.left + whole.right) * whole.width / 2]
        for pair in map(fit, products(blocks)):
            found += [pair.power, pair.mean, pair.left * pair.width, pair.right * pair.width]
        return np.stack(found, axis=1)


class Brisque:
    """What viewers would say of a frame's distortions, by a support-vector regression."""

    def __init__(self, machine: Path, ranges: Path) -> None:
        check_file(machine)
        check_file(ranges)
        with ranges.open("rb") as file:
            found = ArraysOnly(file).load()
        self.least, self.most = (np.array(found[name], dtype=float) for name in ("min_", "max_"))
        head, _, vectors = machine.read_text(encoding="ascii").partition("SV\n")
        told = dict(line.split(maxsplit=1) for line in head.splitlines())
        self.gamma, self.rho = float(told["gamma"]), float(told["rho"])
        lines = [line.split() for line in vectors.splitlines()]
        self.weights = np.array([float(line[0]) for line in lines])
        self.vectors = np.zeros((len(lines), len(self.least)))
        for vector, line in zip(self.vectors, lines, strict=True):
            for entry in line[1:]:  # numbered from 1; zeros are left out
                number, value = entry.split(":")
                vector[int(number) - 1] = float(value)

    def __call__(self, frame: Frames) -> float:
        """0 to 100 for most pictures."""
        y = frame.astype(np.float64) @ np.array([0.2125, 0.7154, 0.0721]) / 255
        half = cv2.resize(y, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
        found = np.concatenate([self.features(plane) for plane in (y, np.asarray(half))])
        scaled = 2 * (found - self.least) / (self.most - self.least) - 1
        near = np.exp(-self.gamma * ((self.vectors - scaled) ** 2).sum(axis=1))
        return float(self.weights @ near - self.rho)

    @staticmethod
    def features(y: Plane) -> Plane:
        """H W -> 18."""
        blocks = normalised(y, 1 / 255, cv2.BORDER_CONSTANT)[None]
        whole = fit(blocks.reshape(1, -1))
        found = [whole.power, (whole.left**2 + whole.right**2) / 2]
        for pair in map(fit, products(blocks)):
            found += [pair.power, pair.mean, pair.left**2, pair.right**2]
        return np.concatenate(found)


# --- the command ----------------------------------------------------------------------------------


MODULE = "benchmarks.quality.no_reference"
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
