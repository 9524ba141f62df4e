"""How long windows have to be, and how far they have to overlap: NANO at 4x size and 2x frames.

193 true frames, every second one made 4x smaller. The change across joins is over that beside them,
and over the same of the true frames, which may jump there themselves: 1 is no seam. Frames are
compared with the truth; of LPIPS every eighth.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from benchmarks import metrics
from benchmarks.baselines import resize
from benchmarks.metrics import Frames
from benchmarks.quality_clips import MAIN
from benchmarks.timing import make_parser, report
from venhancer import Options, api, pipeline
from venhancer.config import NANO
from venhancer.device import choose_device
from venhancer.plan import Plan, make_plan
from venhancer.seams import SeamMeter
from venhancer.video import probe

MODULE = "benchmarks.overlaps"
SCALE, INTERPOLATE = MAIN.scale, MAIN.interpolate
FRAMES = 193
CLIPS = {"bikes": (2.0, (256, 112)), "bbb": (43.0, (256, 144)), "city": (1.0, (256, 144))}
SETTINGS = ((49, 0.5), (33, 0.5), (33, 0.25), (33, 0.125), (17, 0.25))


def load(path: Path, start: float, size: tuple[int, int]) -> Frames:
    """True frames from `start` seconds on, brought to a size: 193 H W 3."""
    found: list[Frames] = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            if frame.time is not None and frame.time >= start:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                found.append(np.asarray(image.resize(size, Image.Resampling.LANCZOS)))
            if len(found) == FRAMES:
                break
    return np.stack(found)


def pictures(frames: Iterator[Frames], folder: Path) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05d}.png", compress_level=1)
    return folder


def seams(plan: Plan, frames: Frames) -> float | None:
    meter = SeamMeter(plan)
    for frame in frames:
        meter.add(frame)
    return meter.seams().windows


def measure(
    source: Path, truth: Frames, setting: tuple[int, float], lpips: metrics.Lpips, device: Any
) -> dict[str, Any]:
    """One run, and how its frames are."""
    window, overlap = setting
    defaults = dataclasses.replace(NANO.defaults, window=window, overlap=overlap)
    options = Options(
        scale=SCALE, interpolate=INTERPOLATE, scene_cuts=False, device=device, overwrite=True
    )
    preset = dataclasses.replace(NANO, defaults=defaults)
    plan = make_plan(probe(source), preset, options)
    target = source.with_name("out")
    done = pipeline.enhance(plan, target, api.open_networks(plan, options), options)
    made = np.stack([np.asarray(Image.open(path)) for path in sorted(target.glob("*.png"))])
    ours, true = done.seams.windows, seams(plan, truth)
    windows = plan.scenes[0].windows
    return {
        "window": window,
        "overlap": overlap,
        "windows": len(windows),
        "seen": round(len(windows) * len(windows[0]) / len(truth), 3),
        "seams": None if ours is None or true is None else round(ours / true, 4),
        "psnr": statistics.fmean(map(metrics.psnr, made, truth)),
        "lpips": statistics.fmean(map(lpips, made[::8], truth[::8])),
        "denoise_seconds": round(done.seconds["denoise"], 2),
    }


def line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name}: windows of {row['window']}, {row['overlap']:g} overlapping: a frame is seen "
        f"{row['seen']:.2f} times, seams {row['seams']}, PSNR {row['psnr']:.2f}, "
        f"LPIPS {row['lpips']:.4f}, {row['denoise_seconds']:.1f} s"
    )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `make data` filled")
    args = parser.parse_args()
    device = choose_device(args.device)
    lpips = metrics.Lpips(args.data / "metrics" / "alexnet.ckpt")
    clips: dict[str, list[dict[str, Any]]] = {}
    for name, (start, size) in CLIPS.items():
        truth = load(args.data / "validation" / f"{name}.mp4", start, size)
        with tempfile.TemporaryDirectory() as folder:
            small = (resize(f, 1 / SCALE, Image.Resampling.BICUBIC) for f in truth[::INTERPOLATE])
            source = pictures(small, Path(folder) / "in")
            clips[name] = []
            for setting in SETTINGS:
                clips[name].append(measure(source, truth, setting, lpips, device))
                print(line(name, clips[name][-1]), flush=True)
    report(MODULE, device, {"preset": NANO.name, "clips": clips}, args.out)


if __name__ == "__main__":
    main()
