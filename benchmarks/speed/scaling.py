"""Growth of a run's time and memory with frames, resolution, window and ranks, file to file.

Twice the size, all steps of the preset; NANO unless weights are given. From one setting, each of
the four is changed alone; every run has a process of its own, and loading does not count. Ranks are
simultaneous processes, each with a clip of its own and its share of the cores, or a card of its
own: seconds are those of the slowest; seconds per frame are over the frames of all ranks.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.frames import write_clip
from benchmarks.interleaved import Memory, Worker, WorkerError, given_task, serve
from benchmarks.measuring import Work, make_parser, report, save
from benchmarks.speed import ceiling as ceilings
from benchmarks.speed.ceiling import share
from venhancer import Options
from venhancer.config import NANO
from venhancer.device import choose_device, choose_dtype
from venhancer.options import Device
from venhancer.pipeline import run as pipeline
from venhancer.planning.cost import plan_flop
from venhancer_rt.backends import Request, choose_backend

MODULE = "benchmarks.speed.scaling"
SCALE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run; the size is that of the input."""

    frames: int
    size: tuple[int, int]
    window: int
    ranks: int = 1


BASE = {
    "cpu": Point(frames=25, size=(160, 96), window=NANO.defaults.window),
    "cuda": Point(frames=49, size=(640, 360), window=NANO.defaults.window),
}
AXES: dict[str, dict[str, tuple[Any, ...]]] = {
    "cpu": {
        "frames": (13, 25, 49, 97),
        "size": ((160, 96), (224, 128), (320, 192)),
        "window": (3, 6, 12, 25),
    },
    "cuda": {
        "frames": (25, 49, 97, 193),
        "size": ((320, 180), (480, 270), (640, 360), (960, 540)),
        "window": (3, 6, 12, 25, 49),
    },
}


RANKS = (1, 2, 4, 8)


def points(device: str) -> dict[str, list[Point]]:
    """List the points by what is changed; as many ranks as there are cores or cards."""
    count = torch.cuda.device_count() if device == "cuda" else torch.get_num_threads()
    axes = {**AXES[device], "ranks": [n for n in RANKS if n <= count]}
    return {
        axis: [dataclasses.replace(BASE[device], **{axis: value}) for value in values]
        for axis, values in axes.items()
    }


def prepare(task: Mapping[str, Any]) -> tuple[Work, Mapping[str, Any]]:
    """Do the run itself -> its figures; the worker is not asked to repeat it."""
    point, device = Point(**task["point"]), task["device"]
    memory = Memory(device)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.mp4"
        write_clip(source, point.frames, *point.size)
        made = enhance(source, point, device, task["weights"])
    plan = made.plan
    return lambda: None, {
        "window": plan.sampling.window,
        "windows": plan.windows,
        "evaluations": plan.evaluations,
        "flop": plan_flop(plan, device),
        "output": f"{plan.geometry.width}x{plan.geometry.height}",
        "output_frames": len(plan.timeline.shown),
        "seconds": round(made.wall, 3),
        "stages": {name: round(seconds, 3) for name, seconds in made.seconds.items()},
        **memory.told(),
    }


def enhance(source: Path, point: Point, device: Device, weights: str | None) -> pipeline.Report:
    """Enhance a clip as the command does."""
    options = Options(
        scale=SCALE,
        window=point.window,
        device=device,
        weights=None if weights is None else Path(weights),
        scene_cuts=False,
    )
    backend = choose_backend(Request(source=source, options=options))
    return pipeline.enhance(backend.plan, source.with_name("out.mp4"), backend.open(), options)


def measure(
    point: Point, device: str, weights: Path | None, ceiling: dict[str, Any]
) -> dict[str, Any]:
    """Measure one row: the slowest rank's figures, or why there are none."""
    given = None if weights is None else str(weights.resolve())
    task = {"point": dataclasses.asdict(point), "device": device, "weights": given}
    size = "{}x{}".format(*point.size)
    asked = {"input": size, "frames": point.frames, "ranks": point.ranks}
    try:
        with ThreadPoolExecutor(point.ranks) as ranks:
            told = list(
                ranks.map(lambda rank: run(task, variables(rank, point.ranks)), range(point.ranks))
            )
    except WorkerError as error:
        return {**asked, "window": point.window, "failed": str(error)}
    row = {**asked, **max(told, key=lambda row: row["seconds"])}
    made = point.ranks * row["output_frames"]
    row["seconds_per_output_frame"] = round(row["seconds"] / made, 4)
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    done, taken = point.ranks * row["flop"], row["stages"]["denoise"]
    row["ceiling_share"] = share(done, taken, ceiling, dtype)
    return row


def run(task: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    """Run one rank: its process has done its work when it answers."""
    worker = Worker(MODULE, task, own)
    worker.close()
    return worker.told


def variables(rank: int, ranks: int) -> dict[str, str]:
    """Return the environment that gives a rank its share of the cores, and its card."""
    if ranks == 1:
        return {}
    cores = max(1, torch.get_num_threads() // ranks)
    return {"OMP_NUM_THREADS": str(cores), "CUDA_VISIBLE_DEVICES": str(rank)}


def main() -> None:
    child = given_task()
    if child is not None:
        serve(partial(prepare, child), child["device"])
        return
    parser = make_parser(__doc__)
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    device = choose_device(args.device)
    ceiling = ceilings.measure(device, ceilings.DTYPES[device])
    print(ceilings.told(ceiling))
    done: dict[Point, dict[str, Any]] = {}
    axes: dict[str, list[dict[str, Any]]] = {}
    found = {"ceiling": ceiling, "axes": axes}
    for axis, wanted in points(device).items():
        for point in wanted:
            if point not in done:
                done[point] = measure(point, device, args.weights, ceiling)
                print(f"{axis}: {line(done[point])}", flush=True)
        axes[axis] = [done[point] for point in wanted]
        save(MODULE, device, found, args.out)
    report(MODULE, device, found, args.out)


def line(row: dict[str, Any]) -> str:
    """Format a row for the terminal."""
    if "failed" in row:
        return f"{row['ranks']} x {row['frames']} frames of {row['input']}: {row['failed']}"
    return (
        f"{row['ranks']} x {row['frames']} frames of {row['input']}, {row['windows']} windows of "
        f"{row['window']}: {row['seconds_per_output_frame']:.3f} s a frame, "
        f"{row['ceiling_share']:.0%} of the ceiling, "
        f"{row['peak_bytes'] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
