"""The paper's ablations with the built-in model, on small crops of the validation clips.

The truth is the middle of a clip, resized to 80x48 times a factor. The input is the truth made
smaller by that factor (antialiased bicubic). The studies change: the downscaling that the model is
told, `--refine` (on an input with noise, and on a clean one), the output size, and how many frames
are left out. Detail is high-frequency energy relative to that of the truth. The remaining noise is
the noise's share in the output divided by the picture's share, so that a fading picture does not
count as noise removed. An option that the model refuses is reported and left out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.measuring import make_parser, report
from benchmarks.quality import metrics
from benchmarks.quality.clips import CLIPS, QualityError, choose_clips, load_clip, noisy, resize
from benchmarks.quality.methods import enhanced
from benchmarks.quality.metrics import Frames
from benchmarks.quality.pictures import save_sheet
from venhancer.config import PRESETS
from venhancer.device import choose_device
from venhancer.errors import OptionError

MODULE = "benchmarks.quality.ablations"
WIDTH, HEIGHT = 80, 48  # of the input; every factor below gives whole pixels
FRAMES = 8  # for studies that leave no frames out
SCALE = 4.0
TOLD = (2, 3, 4, 5, 6)
NOISE_LEVELS = (0, 50, 100, 200, 300)
NOISY, CLEAN = "noisy input,", "clean input,"  # followed by the level
SCALES = (2.5, 3.0, 3.5, 4.0, 4.5)
RATES = (3, 4, 5)
REPAIR = 100  # the noise level for flawed input
PICTURED_CLIP, PICTURED_FRAME = "bikes", 7  # a new frame at every rate

Row = dict[str, float]
Enhance = Callable[..., Frames]  # low-resolution frames, options by name
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Frames of one setting, the true ones, and the figures measured on them."""

    made: Frames
    truth: Frames
    row: Row


Study = Callable[[Frames, Enhance, metrics.Lpips], dict[str, Outcome]]


def fitted(frames: Frames, scale: float) -> Frames:
    """Crop the middle of every frame and resize it to the size of the truth: f H W 3."""
    size = round(WIDTH * scale), round(HEIGHT * scale)
    kernel = Image.Resampling.LANCZOS
    return np.stack([np.asarray(ImageOps.fit(Image.fromarray(f), size, kernel)) for f in frames])


def resized(frames: Frames, scale: float) -> Frames:
    """Resize by the bicubic kernel, as for the input and for plain enlargement."""
    return np.stack([resize(frame, scale, Image.Resampling.BICUBIC) for frame in frames])


def enhancer(device: str, **chosen: Any) -> Enhance:
    """Make a function that runs our model on a clip in one go; chosen: preset or weights."""
    common = {"device": device, "interpolate": 1, "scene_cuts": False, **chosen}
    return lambda frames, **options: enhanced(frames, {**common, **options})[0]


# --- what is changed ----------------------------------------------------------------------------


def told_scales(source: Frames, enhance: Enhance, lpips: metrics.Lpips) -> dict[str, Outcome]:
    """Vary the downscaling s that the model is told, on the same input."""
    truth = fitted(source[:FRAMES], SCALE)
    low = resized(truth, 1 / SCALE)
    found = {}
    for told in TOLD:
        made = enhance(low, scale=SCALE, detail=told)
        found[f"{told}"] = Outcome(made, truth, measure(made, truth, SCALE, lpips))
    return found


def noise_levels(source: Frames, enhance: Enhance, lpips: metrics.Lpips) -> dict[str, Outcome]:
    """Vary `--refine`, the noise on the key frames, on an input with noise and on a clean one."""
    truth = fitted(source[:FRAMES], SCALE)
    clean = resized(truth, 1 / SCALE)
    flawed = noisy(clean)
    found = {}
    for level in NOISE_LEVELS:
        made, unflawed = (enhance(low, scale=SCALE, refine=level) for low in (flawed, clean))
        row = measure(made, truth, SCALE, lpips) | left((clean, flawed), (unflawed, made))
        found[f"{NOISY} {level}"] = Outcome(made, truth, row)
        found[f"{CLEAN} {level}"] = Outcome(unflawed, truth, measure(unflawed, truth, SCALE, lpips))
    return found


def scales(source: Frames, enhance: Enhance, lpips: metrics.Lpips) -> dict[str, Outcome]:
    """Vary the output scale on the same region; the truth has the size asked for."""
    found = {}
    for scale in SCALES:
        truth = fitted(source[:FRAMES], scale)
        made = enhance(resized(truth, 1 / scale), scale=scale)
        found[f"{scale:g}x"] = Outcome(made, truth, measure(made, truth, scale, lpips))
    return found


def rates(source: Frames, enhance: Enhance, lpips: metrics.Lpips) -> dict[str, Outcome]:
    """Vary the frame rate factor; key frames and new ones are measured apart."""
    truth = fitted(source, SCALE)
    found = {}
    for rate in RATES:
        keys = truth[::rate]
        made = enhance(resized(keys, 1 / SCALE), scale=SCALE, interpolate=rate)
        beside = truth[: (len(keys) - 1) * rate + 1]
        is_key = np.arange(len(beside)) % rate == 0
        row: Row = {}
        for kind, chosen in (("key", is_key), ("new", ~is_key)):
            part = measure(made, beside, SCALE, lpips, chosen)
            row |= {f"{key}_{kind}": value for key, value in part.items()}
        found[f"{rate}x"] = Outcome(made, beside, row)
    return found


STUDIES: Mapping[str, Study] = {
    "told s": told_scales,
    "refine": noise_levels,
    "size": scales,
    "frames": rates,
}


# --- measuring ----------------------------------------------------------------------------------


def measure(
    made: Frames,
    truth: Frames,
    scale: float,
    lpips: metrics.Lpips,
    chosen: NDArray[np.bool_] | slice = slice(None),
) -> Row:
    """Average over the chosen frames; QualityError if the size is not exactly the wanted one."""
    if made.shape != truth.shape:
        raise QualityError(f"the model made {made.shape}, expected {truth.shape}")
    pairs = list(zip(made[chosen], truth[chosen], strict=True))
    cutoff = 0.5 / scale  # cycles a pixel: the finest detail in the input
    return {
        "psnr": statistics.fmean(metrics.psnr(*pair) for pair in pairs),
        "ssim": statistics.fmean(metrics.ssim(*pair) for pair in pairs),
        "lpips": statistics.fmean(lpips(*pair) for pair in pairs),
        "detail": statistics.fmean(metrics.high_frequency_ratio(*pair, cutoff) for pair in pairs),
    }


def left(inputs: Sequence[Frames], outputs: Sequence[Frames]) -> Row:
    """Compute the output's shares of picture and noise; each pair is (without noise, with it)."""
    clean, flawed = (resized(frames, SCALE).astype(np.float64) for frames in inputs)
    unflawed, made = (frames.astype(np.float64) for frames in outputs)
    picture = share(unflawed, clean - clean.mean())
    return {
        "picture_left": picture,
        "artefact_left": share(made - unflawed, flawed - clean) / picture,
    }


def share(values: Values, pattern: Values) -> float:
    """Compute the factor of `pattern` in `values`, by least squares."""
    return float((values * pattern).sum() / (pattern**2).sum())


# --- claims -------------------------------------------------------------------------------------

Rows = Mapping[str, Row]  # by setting, in their order


def is_rising(values: Sequence[float]) -> bool:
    return all(before < after for before, after in pairwise(values))


def more_told_is_more_detail(studies: Mapping[str, Rows]) -> bool:
    return is_rising([row["detail"] for row in studies["told s"].values()])


def of_input(studies: Mapping[str, Rows], kind: str) -> dict[int, Row]:
    """Return the rows of `--refine` on one kind of input, by level."""
    rows = studies["refine"].items()
    return {int(name.split()[-1]): row for name, row in rows if name.startswith(kind)}


def noise_is_repaired(studies: Mapping[str, Rows]) -> bool:
    rows = of_input(studies, NOISY)
    before, after = rows[0], rows[REPAIR]
    return after["psnr"] > before["psnr"] and after["lpips"] < before["lpips"]


def more_refining_leaves_less_noise(studies: Mapping[str, Rows]) -> bool:
    return is_rising([-row["artefact_left"] for row in of_input(studies, NOISY).values()])


def clean_input_needs_none(studies: Mapping[str, Rows]) -> bool:
    rows = of_input(studies, CLEAN)
    return all(row["psnr"] < rows[0]["psnr"] for level, row in rows.items() if level)


def key_frames_are_closer(studies: Mapping[str, Rows]) -> bool:
    return all(
        row["psnr_key"] > row["psnr_new"] and row["ssim_key"] > row["ssim_new"]
        for row in studies["frames"].values()
    )


def key_frames_look_closer(studies: Mapping[str, Rows]) -> bool:
    return all(row["lpips_key"] < row["lpips_new"] for row in studies["frames"].values())


CLAIMS = {
    "The more s is told, the more detail": ("told s", more_told_is_more_detail),
    f"A noisy input is closer to the truth with refine {REPAIR} than with 0": (
        "refine",
        noise_is_repaired,
    ),
    "The higher refine, the less is left of the noise": ("refine", more_refining_leaves_less_noise),
    "A clean input is closest to the truth with refine 0, in PSNR": (
        "refine",
        clean_input_needs_none,
    ),
    "Key frames are closer to the truth than new ones, in PSNR and SSIM": (
        "frames",
        key_frames_are_closer,
    ),
    "Key frames are closer to the truth than new ones, in LPIPS": (
        "frames",
        key_frames_look_closer,
    ),
}


def mean(clips: Sequence[Mapping[str, Rows]]) -> dict[str, dict[str, Row]]:
    """Average every figure over the clips."""
    return {
        study: {
            setting: {key: statistics.fmean(c[study][setting][key] for c in clips) for key in row}
            for setting, row in rows.items()
        }
        for study, rows in clips[0].items()
    }


def judge(clips: Mapping[str, Mapping[str, Rows]]) -> dict[str, dict[str, Any]]:
    """Judge every claim whose study was made: do the means support it, and which clips do?"""
    means = mean(list(clips.values()))
    return {
        claim: {"holds": holds(means), "clips": {name: holds(c) for name, c in clips.items()}}
        for claim, (study, holds) in CLAIMS.items()
        if study in means
    }


def claim_line(claim: str, found: Mapping[str, Any]) -> str:
    clips = found["clips"].values()
    word = "yes" if found["holds"] else "no"
    return f"{claim}: {word} by the mean, in {sum(clips)} of {len(clips)} clips."


# --- report -------------------------------------------------------------------------------------


def show(studies: Mapping[str, Rows]) -> None:
    for study, rows in studies.items():
        for setting, row in rows.items():
            figures = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{study} {setting}: {figures}", flush=True)


def save_pictures(folder: Path, studies: Mapping[str, Mapping[str, Outcome]]) -> list[str]:
    """Save a sheet for each study -> their names."""
    names = []
    for study, outcomes in studies.items():
        panels = {f"{study} {name}": o.made[PICTURED_FRAME] for name, o in outcomes.items()}
        panels["truth"] = list(outcomes.values())[-1].truth[PICTURED_FRAME]
        names.append(f"ablation_{study.replace(' ', '_')}.jpg")
        save_sheet(folder / names[-1], panels)
    return names


def studied(
    source: Frames, enhance: Enhance, lpips: metrics.Lpips
) -> dict[str, dict[str, Outcome]]:
    """Run every study that the model supports; the others are reported."""
    found = {}
    for name, study in STUDIES.items():
        try:
            found[name] = study(source, enhance, lpips)
        except OptionError as error:
            print(f"{name}: left out, {error}", flush=True)
    return found


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `make data` filled")
    parser.add_argument("--pictures", type=Path, help="folder for side-by-side crops")
    parser.add_argument("--preset", choices=PRESETS, help="default: nano")
    parser.add_argument("--weights", type=Path, help="default: the preset's")
    parser.add_argument("--new-frames", help="who makes new frames (default: the preset's way)")
    parser.add_argument("--clips", help="with commas (default: all)")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    device = choose_device(args.device)
    lpips = metrics.Lpips(args.data / "metrics" / "alexnet.ckpt")
    chosen = {"preset": args.preset, "weights": args.weights, "new_frames": args.new_frames}
    enhance = enhancer(device, **chosen)
    clips: dict[str, dict[str, dict[str, Row]]] = {}
    pictures: list[str] = []
    for clip in choose_clips(CLIPS, args.clips):
        outcomes = studied(load_clip(clip, args.data / "validation"), enhance, lpips)
        clips[clip.name] = {
            study: {setting: o.row for setting, o in found.items()}
            for study, found in outcomes.items()
        }
        print(f"{clip.name}: {clip.note}")
        show(clips[clip.name])
        if args.pictures is not None and clip.name == PICTURED_CLIP:
            pictures = save_pictures(args.pictures, outcomes)
    claims = judge(clips)
    for claim, told in claims.items():
        print(claim_line(claim, told))
    found = {"mean": mean(list(clips.values())), "claims": claims, "pictures": pictures}
    report(MODULE, device, {**found, "clips": clips}, args.out)


if __name__ == "__main__":
    main()
