"""What each part of `--mode fast` gains and costs, against an exact run of the same clip.

Clips, sizes and frames of `quality`. Every setting runs once a clip, every other clip in reverse
order; gained is the time of the denoiser, by clips. PSNR, SSIM and LPIPS are against the frames of
the exact run, of all frames and of the worst; LPIPS and VMAF against the truth say what it costs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import metrics
from benchmarks.metrics import Frames
from benchmarks.quality_clips import CLIPS, degrade, load_clip
from benchmarks.quality_methods import enhanced
from benchmarks.timing import make_parser, report, spread
from venhancer.config import PRESETS, RELEASED, Shortcuts
from venhancer.device import choose_device

MODULE = "benchmarks.shortcuts"
EXACT = "exact"
Settings = Mapping[str, Mapping[str, Any]]


def settings(preset: str) -> Settings:
    """By their options: those that the preset has any use for."""
    chosen = PRESETS[preset]
    fast = chosen.defaults.fast
    found: dict[str, Mapping[str, Any]] = {EXACT: {}}
    fewer = (7, 4) if preset == RELEASED.name else (3, 2, 1)
    steps = [n for n in fewer if n < chosen.defaults.steps]
    found |= {f"--steps {n}": {"steps": n, "solver": "normal"} for n in steps}
    if fast.reuse > 1:
        found |= {f"--reuse {n}": {"reuse": n} for n in (2, 4)}
    if chosen.model.unet.text_width:
        interval = fast.guidance_interval
        name = "--guidance-interval {}:{}".format(*interval)
        found[name] = {"guidance_interval": interval}
    return {**found, "--mode fast": {"mode": "fast"}} if fast != Shortcuts() else found


def measure_clip(truth: Frames, chosen: Settings, lpips: metrics.Lpips) -> dict[str, Any]:
    """A row for each setting."""
    low, made, seconds = degrade(truth), {}, {}
    for name, options in chosen.items():
        made[name], done = enhanced(low, options)
        seconds[name] = done.seconds["denoise"]
    return {
        name: {
            "denoise_seconds": round(seconds[name], 2),
            "lpips_truth": statistics.fmean(map(lpips, frames, truth)),
            "vmaf_truth": metrics.vmaf(frames, truth),
            **({} if name == EXACT else beside(frames, made[EXACT], lpips)),
        }
        for name, frames in made.items()
    }


def beside(frames: Frames, exact: Frames, lpips: metrics.Lpips) -> dict[str, float]:
    """How far the frames are from those of the exact run."""
    psnr = list(map(metrics.psnr, frames, exact))
    ssim = list(map(metrics.ssim, frames, exact))
    differences = list(map(lpips, frames, exact))
    return {
        "psnr": statistics.fmean(psnr),
        "psnr_worst": min(psnr),
        "ssim": statistics.fmean(ssim),
        "ssim_worst": min(ssim),
        "lpips": statistics.fmean(differences),
        "lpips_worst": max(differences),
    }


def summary(clips: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Over the clips: means, the worst frame of all, and how many times faster."""
    found = {}
    for name in next(iter(clips.values())):
        rows = [rows[name] for rows in clips.values()]
        exact = [rows[EXACT]["denoise_seconds"] for rows in clips.values()]
        gained = [e / r["denoise_seconds"] for e, r in zip(exact, rows, strict=True)]
        row: dict[str, Any] = {"times_faster": spread(gained)}
        for key in rows[0]:
            values = [r[key] for r in rows]
            worst = max if key == "lpips_worst" else min
            row[key] = worst(values) if key.endswith("_worst") else statistics.fmean(values)
        found[name] = row
    return found


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    for name, row in found.items():
        print(line(name, row), flush=True)


def line(name: str, row: Mapping[str, Any]) -> str:
    told = f"{name:28} x {row['times_faster']['median']:<5.3g} "
    if name != EXACT:
        told += (
            f"PSNR {row['psnr']:.1f} (worst {row['psnr_worst']:.1f}), "
            f"SSIM {row['ssim']:.4f} ({row['ssim_worst']:.4f}), "
            f"LPIPS {row['lpips']:.4f} ({row['lpips_worst']:.4f}); "
        )
    return f"{told}to the truth LPIPS {row['lpips_truth']:.4f}, VMAF {row['vmaf_truth']:.2f}"


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--preset", choices=("nano", RELEASED.name), default="nano")
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `make data` filled")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    device = choose_device(args.device)
    common = {"preset": args.preset, "device": device}
    chosen = {name: {**common, **options} for name, options in settings(args.preset).items()}
    lpips = metrics.Lpips(args.data / "metrics" / "alexnet.ckpt")
    clips: dict[str, Any] = {}
    for clip in CLIPS:
        truth = load_clip(clip, args.data / "validation")
        chosen = dict(reversed(chosen.items()))
        clips[clip.name] = measure_clip(truth, chosen, lpips)
        print(f"{clip.name}: {clip.note}")
        show(summary({clip.name: clips[clip.name]}))
    found = summary(clips)
    show(found)
    report(MODULE, device, {"preset": args.preset, "settings": found, "clips": clips}, args.out)


if __name__ == "__main__":
    main()
