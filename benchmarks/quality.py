"""Measure 4x size and 2x frame rate against the truth, beside baselines and networks of others.

Of 17 true frames every second one is made 4x smaller (antialiased bicubic) and goes in; 17
frames come back. Even frames were only enlarged, odd frames are new. Ahead means: better than
both baselines in VMAF, LPIPS and the PSNR of the new frames, by the median over the clips. Where
the peers have run too, the goals against them are judged. Seconds are those of the method's own
frames: loading is in them for nano, as are its PNGs, and not for the peers.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from PIL import Image

from benchmarks import metrics
from benchmarks.baselines import bicubic_repeat, lanczos_minterpolate, resize
from benchmarks.machine import describe_run, shown
from benchmarks.metrics import Frames
from benchmarks.peer_files import PeerError
from benchmarks.peer_methods import ENLARGERS, Method, load_method
from benchmarks.pictures import save_comparison
from benchmarks.quality_goals import BASELINES, goal_lines, judge, judge_goals, verdict_line
from benchmarks.quality_table import Row, table
from benchmarks.timing import describe_device
from venhancer.device import choose_device

if TYPE_CHECKING:
    from venhancer.pipeline import Report

SCALE, INTERPOLATE, FRAMES = 4, 2, 17
OPTIONS = ("weights", "steps", "refine", "detail", "solver", "eta", "seed")


class QualityError(Exception):
    """One clear line: a missing clip, or a method that returned something else than asked."""


@dataclass(frozen=True, slots=True)
class Clip:
    """17 true frames: where they start, and the size they are brought to (None: as they are)."""

    name: str
    start_seconds: float
    size: tuple[int, int] | None
    note: str


CLIPS = (
    Clip("city", 1.0, (1280, 720), "drone over a city, nearly still; 1080p made 720p by Lanczos"),
    Clip("bikes", 5.76, None, "cars behind a railing; 640x272 as it is, so the input is 160x68"),
    Clip("bbb", 43.0, None, "pan over trees and grass; 1280x720 as it is; 463 s into the film"),
)


def load_clip(clip: Clip, folder: Path) -> Frames:
    """The true frames of a clip: 17 H W 3."""
    path = folder / f"{clip.name}.mp4"
    if not path.is_file():
        raise QualityError(f"{path} is missing: run `make data`")
    frames: list[Frames] = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            if frame.time is not None and frame.time >= clip.start_seconds - 1e-6:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                if clip.size is not None:
                    image = image.resize(clip.size, Image.Resampling.LANCZOS)
                frames.append(np.asarray(image))
            if len(frames) == FRAMES:
                return np.stack(frames)
    raise QualityError(f"{path}: {len(frames)} frames after {clip.start_seconds} s, not {FRAMES}")


def degrade(truth: Frames) -> Frames:
    """What goes in: every second frame, 4x smaller: 17 H W 3 -> 9 H/4 W/4 3."""
    kept = truth[::INTERPOLATE]
    return np.stack([resize(frame, 1 / SCALE, Image.Resampling.BICUBIC) for frame in kept])


# --- methods ------------------------------------------------------------------------------------


def enhanced(frames: Frames, options: Mapping[str, Any]) -> tuple[Frames, Report]:
    """By our enhancer, through folders of numbered PNGs as a user would call it."""
    from venhancer import Options, enhance  # late: the baselines need no network

    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "in"), Path(scratch, "out")
        source.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(source / f"{index:05d}.png", compress_level=1)
        asked = {"scale": SCALE, "interpolate": INTERPOLATE, **options}
        report = enhance(source, target, Options(**asked))
        made = [
            np.asarray(Image.open(path).convert("RGB")) for path in sorted(target.glob("*.png"))
        ]
    if not made:
        raise QualityError("nano wrote no frames")
    return np.stack(made), report


def choose_methods(
    names: Sequence[str], options: Mapping[str, Any], peers: Path
) -> dict[str, Method]:
    """The asked methods by name, each from low-resolution frames to full ones."""
    own: dict[str, Method] = {
        "bicubic": bicubic_repeat,
        "lanczos-minterpolate": lanczos_minterpolate,
        "nano": lambda frames: enhanced(frames, options)[0],
    }
    unknown = sorted(set(names) - {*own, *ENLARGERS})
    if unknown:
        known = ", ".join((*own, *ENLARGERS))
        raise QualityError(f"no method {', '.join(unknown)}: there are {known}")
    return {name: own[name] if name in own else load_method(name, peers) for name in names}


def run_method(name: str, method: Method, truth: Frames) -> tuple[Frames, float]:
    """Run a method on the degraded truth -> its frames and its seconds per frame."""
    low = degrade(truth)
    started = time.perf_counter()
    made = method(low)
    seconds = time.perf_counter() - started
    if made.shape != truth.shape:
        raise QualityError(f"{name} made {made.shape}, expected {truth.shape}")
    return made, seconds / len(made)


# --- measuring ----------------------------------------------------------------------------------


def measure(made: Frames, truth: Frames, lpips: metrics.Lpips) -> Row:
    """Everything that compares one method's frames with the truth, but the warping error."""
    pairs = list(zip(made, truth, strict=True))
    psnr = [metrics.psnr(*pair) for pair in pairs]
    ssim = [metrics.ssim(*pair) for pair in pairs]
    return {
        "psnr_even": statistics.fmean(psnr[::2]),
        "psnr_odd": statistics.fmean(psnr[1::2]),
        "ssim_even": statistics.fmean(ssim[::2]),
        "ssim_odd": statistics.fmean(ssim[1::2]),
        "vmaf": metrics.vmaf(made, truth),
        "lpips": statistics.fmean(lpips(*pair) for pair in pairs),
        "grid": statistics.fmean(metrics.patch_grid_energy(frame) for frame in made),
        "detail": statistics.fmean(metrics.high_frequency_ratio(*pair) for pair in pairs),
        "tdiff": metrics.frame_difference_error(made, truth),
    }


def measure_clip(
    truth: Frames, methods: Mapping[str, Method], lpips: metrics.Lpips
) -> tuple[dict[str, Row], dict[str, Frames]]:
    """Run and measure every method on a clip -> rows (with one for the truth) and frames."""
    videos: dict[str, Frames] = {}
    rows: dict[str, Row] = {}
    for name, method in methods.items():
        videos[name], seconds = run_method(name, method, truth)
        rows[name] = measure(videos[name], truth, lpips) | {"seconds_per_frame": seconds}
    grid = statistics.fmean(metrics.patch_grid_energy(frame) for frame in truth)
    rows["truth"] = {"grid": grid, "detail": 1.0, "tdiff": 0.0}
    for name, value in metrics.warping_errors(videos | {"truth": truth}, truth).items():
        rows[name]["ewarp"] = value
    return rows, videos


# --- command ------------------------------------------------------------------------------------


def literal(text: str) -> Any:
    """An option's value: a Python literal where it is one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    names = ",".join(clip.name for clip in CLIPS)
    parser.add_argument("--methods", default=",".join((*BASELINES, "nano")), help="with commas")
    peers = ", ".join(ENLARGERS)
    parser.add_argument("--peers", action="store_true", help=f"these methods too: {peers}")
    parser.add_argument("--clips", default=names, help=f"with commas (default: {names})")
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `make data` filled")
    parser.add_argument("--out", type=Path, help="results as JSON")
    parser.add_argument("--pictures", type=Path, help="folder for side-by-side crops")
    for name in OPTIONS:
        kind = Path if name == "weights" else literal
        parser.add_argument(f"--{name}", type=kind, help="passed on to nano")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure, print a table per clip, the verdict and the JSON line; write what was asked."""
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    names = [*args.methods.split(","), *(ENLARGERS if args.peers else ())]
    methods = choose_methods(names, options, args.data / "peers")
    chosen = [clip for clip in CLIPS if clip.name in args.clips.split(",")]
    if not chosen:
        raise QualityError(f"no clip {args.clips}: there are {', '.join(c.name for c in CLIPS)}")
    lpips = metrics.Lpips(args.data / "metrics" / "alexnet.ckpt")
    results: dict[str, dict[str, Row]] = {}
    for clip in chosen:
        truth = load_clip(clip, args.data / "validation")
        results[clip.name], videos = measure_clip(truth, methods, lpips)
        height, width = truth.shape[1:3]
        print(f"\n**{clip.name}** {width}x{height} from {clip.start_seconds} s: {clip.note}\n")
        print(table(results[clip.name]), flush=True)
        if args.pictures is not None:
            save_comparison(args.pictures, clip.name, videos, truth)
    verdict, goals = judge(results), judge_goals(results)
    print("\n" + "\n".join([verdict_line(verdict), *goal_lines(goals)]))
    report = describe_run("benchmarks.quality") | {
        "device": describe_device(choose_device("auto")),
        "options": {name: shown(str(value)) for name, value in options.items()},
        "clips": {c.name: {"start_seconds": c.start_seconds, "note": c.note} for c in chosen},
        "results": results,
        "verdict": verdict,
        "goals": goals,
    }
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run(build_parser().parse_args(argv))
    except (QualityError, metrics.MetricError, PeerError) as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
