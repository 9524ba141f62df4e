"""Measure larger and more frames against the truth, beside baselines and third-party networks.

By default at 4x size and 2x frame rate: every second of 17 true frames is made 4x smaller
(antialiased bicubic) and is the input; 17 frames come back. Key frames were only enlarged, the
others are new. "Ahead" means better than both baselines in VMAF, LPIPS and the PSNR of the new
frames, by the median over the clips. If RIFE + SPAN has run too, the goals against it are judged.
Seconds are those of the method's own frames (for nano from PNG to PNG); file to file is from an mp4
to an mp4, loading included.

To choose weights: `--methods nano --weights FILE --peers-from benchmarks/results/quality.json` runs
nano alone and prints its rows, the goals and one number. `--held-out` measures other parts of the
clips, which must not be used for choosing.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import describe_device, describe_run, shown
from benchmarks.peers.methods import ENLARGERS, cannot, note_of
from benchmarks.peers.networks import PeerError
from benchmarks.quality import metrics
from benchmarks.quality.clips import (
    CLIPS,
    HELD_OUT,
    MAIN,
    Clip,
    QualityError,
    Setting,
    choose_clips,
    cut_to_fit,
    degrade,
    extra_clip,
    load_clip,
)
from benchmarks.quality.goals import goal_lines, judge, judge_goals, score, score_line, verdict_line
from benchmarks.quality.methods import choose_methods, file_seconds
from benchmarks.quality.metrics import Frames
from benchmarks.quality.pictures import save_comparison
from benchmarks.quality.rows import (
    BASELINES,
    RIVAL,
    Row,
    borrow,
    compact_table,
    measure_clip,
    table,
)
from venhancer.device import choose_device
from venhancer.errors import DeviceError

SETTINGS = "2x1,2x2,3x2,8x2,4x4"  # times the size x times the frames
OPTIONS = ("weights", "preset", "steps", "refine", "detail", "solver", "eta", "seed", "new_frames")


# --- measuring ----------------------------------------------------------------------------------


def measure_setting(
    args: argparse.Namespace, setting: Setting, lpips: metrics.Lpips
) -> dict[str, Any]:
    """Measure all clips at one setting -> rows, verdict and goals; prints the tables on the way."""
    names = asked_methods(args)
    options = {**asked_options(args), "device": args.device}
    clips = asked_clips(args)
    peers = args.data / "peers"
    borrowed = borrow(args.peers_from, setting, clips, names) if args.peers_from else {}
    methods = choose_methods(names, options, peers, setting)
    notes = {n: note for n in names if (note := note_of(n, setting.scale, setting.interpolate))}
    left_out = {name: why for name in names if (why := cannot_run(name, setting))}
    results: dict[str, dict[str, Row]] = {}
    for clip in clips:
        truth = cut_to_fit(load_clip(clip, args.data / "validation"), setting)
        rows, videos = measure_clip(truth, methods, lpips, setting)
        low = degrade(truth, setting)
        for name in methods:
            seconds = file_seconds(name, low, options, peers, setting)
            if seconds is not None:
                rows[name]["file_seconds"] = seconds / len(truth)
        results[clip.name] = {**borrowed.get(clip.name, {}), **rows}
        if not args.peers_from:
            show_clip(clip, truth, rows, setting, notes)
        if args.pictures is not None:
            part = "" if setting == MAIN else f"{setting.scale}x{setting.interpolate}"
            folder = args.pictures / part
            save_comparison(folder, clip.name, videos, truth, setting.interpolate)
    for name, why in left_out.items():
        print(f"{name}: {why}")
    goals = judge_goals(results)
    return {
        "scale": setting.scale,
        "interpolate": setting.interpolate,
        "clips": {c.name: {"start_seconds": c.start_seconds, "note": c.note} for c in clips},
        "notes": notes,
        "left_out": left_out,
        "results": results,
        "verdict": judge(results),
        "goals": goals,
        "score": None if goals is None else score(goals),
    }


def cannot_run(name: str, setting: Setting) -> str:
    return cannot(name, setting.scale) if name in ENLARGERS else ""


# --- printing -----------------------------------------------------------------------------------


def show_clip(
    clip: Clip, truth: Frames, rows: Mapping[str, Row], setting: Setting, notes: Mapping[str, str]
) -> None:
    height, width = truth.shape[1:3]
    print(
        f"\n**{clip.name}** {width}x{height} from {clip.start_seconds:g} s, {setting}: "
        f"{clip.note}\n"
    )
    print(table(rows, notes), flush=True)


def show_outcome(entry: Mapping[str, Any], is_compact: bool) -> None:
    """Print the goals, and for choosing weights the rows and the number instead of the verdict."""
    if is_compact:
        print(compact_table(entry["results"], ("nano", RIVAL)) + "\n")
    else:
        print("\n" + verdict_line(entry["verdict"]))
    print("\n".join(goal_lines(entry["goals"])))
    if entry["goals"] is not None:
        print(score_line(entry["goals"]), flush=True)


# --- command ------------------------------------------------------------------------------------


def literal(text: str) -> Any:
    """Parse an option's value: as a Python literal if it is one, else as text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_settings(text: str) -> list[Setting]:
    """Parse settings such as 2x1,4x4."""
    try:
        pairs = [tuple(map(int, part.split("x"))) for part in text.split(",")]
        return [Setting(scale, interpolate) for scale, interpolate in pairs]
    except ValueError:
        raise QualityError(f"--settings {text}: take for instance {SETTINGS}") from None


def asked_methods(args: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys([*args.methods.split(","), *(ENLARGERS if args.peers else ())]))


def asked_options(args: argparse.Namespace) -> dict[str, Any]:
    """Collect the options that are passed on to nano."""
    return {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}


def asked_clips(args: argparse.Namespace) -> list[Clip]:
    known = [*(HELD_OUT if args.held_out else CLIPS), *map(extra_clip, args.extra)]
    return choose_clips(known, args.clips)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(clip.name for clip in CLIPS)
    parser.add_argument("--methods", default=",".join((*BASELINES, "nano")), help="with commas")
    peers = ", ".join(ENLARGERS)
    parser.add_argument("--peers", action="store_true", help=f"these methods too: {peers}")
    parser.add_argument(
        "--peers-from", type=Path, metavar="JSON", help="earlier results: others do not run again"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of nano")
    parser.add_argument("--scale", type=int, default=MAIN.scale)
    parser.add_argument("--interpolate", type=int, default=MAIN.interpolate)
    parser.add_argument(
        "--settings", nargs="?", const=SETTINGS, help=f"several into one file: {SETTINGS}"
    )
    parser.add_argument("--held-out", action="store_true", help="other places of the clips")
    parser.add_argument(
        "--extra", action="append", default=[], metavar="FILE[@SECONDS]", help="a clip of yours too"
    )
    parser.add_argument("--clips", help=f"with commas (default: all, as {names})")
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `make data` filled")
    parser.add_argument("--out", type=Path, help="results as JSON")
    parser.add_argument("--pictures", type=Path, help="folder for side-by-side crops")
    for name in OPTIONS:
        kind = Path if name == "weights" else literal
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="passed on to nano")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure, print tables, verdict and goals; write the results file, print it as one line."""
    choose_device(args.device)  # reports a missing card before anything runs
    single = Setting(args.scale, args.interpolate)
    settings = [single] if args.settings is None else parse_settings(args.settings)
    choose_methods(asked_methods(args), {}, args.data / "peers", settings[0])  # what is missing
    lpips = metrics.Lpips(args.data / "metrics" / "alexnet.ckpt")
    entries = []
    for setting in settings:
        entries.append(measure_setting(args, setting, lpips))
        show_outcome(entries[-1], is_compact=args.peers_from is not None)
    report = describe_run("benchmarks.quality") | {
        "device": describe_device(args.device),
        "options": {name: shown(str(value)) for name, value in asked_options(args).items()},
        "held_out": args.held_out,
        **(entries[0] if args.settings is None else {"settings": entries}),
    }
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if args.peers_from is None:
        print(json.dumps(report))


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run(build_parser().parse_args(argv))
    except (QualityError, metrics.MetricError, PeerError, DeviceError) as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
