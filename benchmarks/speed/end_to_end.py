"""Seconds from file to file and of the model alone, per stage, and the peak of memory.

NANO: 16 frames of 512x320, twice the size and frames: the model makes key frames, and the frames
between are made by motion. The released model at random weights: 32 frames of 640x360, twice the
size, in one window, with `--mode fast` too. `--baseline pytorch` also runs the released model by
the release's path and compares our frames with its frames; too far from float32 is an error.
`--baseline rife-span`: RIFE and SPAN too. Every run has a process of its own, and loading counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.frames import LEAST_PSNR, FrameTap, compare, write_clip
from benchmarks.interleaved import Memory, Worker, given_task, in_turns, reason, serve
from benchmarks.measuring import Work, four, make_parser, report, speed_up, spread
from benchmarks.peers import methods as peers
from benchmarks.peers.networks import PeerError
from benchmarks.random_models import write_checkpoint, write_companions
from benchmarks.speed import ceiling as ceilings
from benchmarks.speed.ceiling import share
from benchmarks.speed.plain_network import PlainModel, check_has_plain
from venhancer import Options
from venhancer.config import NANO, PRESETS, RELEASED, NewFrames
from venhancer.device import choose_device
from venhancer.options import Device
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.networks import LappedCodec, Networks
from venhancer.pipeline.stopwatch import Stopwatch
from venhancer.planning.cost import plan_flop
from venhancer.planning.plan import Plan
from venhancer.planning.windows import temporal_windows
from venhancer.sampling.sampler import Placement
from venhancer.weights.checkpoint import find_weights, load_model
from venhancer_rt.backends import Request, choose_backend

PLAIN, OURS, FAST, PEER = "plain", "ours", "ours, --mode fast", "RIFE + SPAN"
SCALE = 2
Told = Mapping[str, Any]  # by the process of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The input clip, which is enlarged to twice its size."""

    frames: int
    width: int
    height: int
    interpolate: int
    window: int
    overlap: float
    new_frames: NewFrames

    @property
    def made(self) -> int:
        """The number of frames of the output."""
        return (self.frames - 1) * self.interpolate + 1

    @property
    def key_stride(self) -> int:
        """The number of frames that the model makes from one key frame to the next."""
        return self.interpolate if self.new_frames == "model" else 1


CLIPS = {
    NANO.name: Clip(
        frames=16,
        width=512,
        height=320,
        interpolate=2,
        window=NANO.defaults.window,
        overlap=NANO.defaults.overlap,
        new_frames=NANO.defaults.new_frames,
    ),
    RELEASED.name: Clip(
        frames=32,
        width=640,
        height=360,
        interpolate=1,
        window=32,
        overlap=RELEASED.defaults.overlap,
        new_frames=RELEASED.defaults.new_frames,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run; what is not PLAIN and not PEER is ours."""

    name: str
    preset: str
    weights: str | None
    device: Device
    frames: str  # the file that takes the frames


def prepare(task: Task) -> tuple[Work, Told]:
    """Do the run itself -> its figures; the worker is not asked to repeat it."""
    clip, memory = CLIPS[task.preset], Memory(task.device)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        write_clip(source, clip.frames, clip.width, clip.height)
        start = time.perf_counter()
        told = (
            run_peer(clip, source, target) if task.name == PEER else run_ours(task, source, target)
        )
        seconds = time.perf_counter() - start
    return lambda: None, {"seconds": seconds, **told, **memory.told()}


def run_peer(clip: Clip, source: Path, target: Path) -> Told:
    stages = peers.enhance_file(source, target, SCALE, clip.interpolate)
    inference = stages["interpolate"] + stages["enlarge"]
    return {"steps": None, "dtype": "float32", "model_seconds": inference, "stages": stages}


def run_ours(task: Task, source: Path, target: Path) -> Told:
    clip, watch = CLIPS[task.preset], Stopwatch()
    options = Options(
        scale=SCALE,
        preset=task.preset,
        interpolate=clip.interpolate,
        window=clip.window,
        mode="fast" if task.name == FAST else "exact",
        weights=None if task.weights is None else Path(task.weights),
        device=task.device,
        scene_cuts=False,
    )
    backend = choose_backend(Request(source=source, options=options))
    dtype = backend.compute.dtype
    with watch("load"):
        if task.name == PLAIN:
            networks = open_plain(backend.plan, options)
            dtype = torch.float16 if task.device == "cuda" else torch.float32
        else:
            networks = backend.open()
    with FrameTap(Path(task.frames), backend.plan) as tap:
        made = pipeline.enhance(backend.plan, target, networks, options, journal=tap)
    return {
        "steps": len(made.plan.sampling.schedule),
        "dtype": str(dtype).removeprefix("torch."),
        "flop": plan_flop(made.plan, task.device),
        "model_seconds": made.seconds["denoise"],
        "stages": watch.seconds | made.seconds,
    }


def open_plain(plan: Plan, options: Options) -> Networks:
    """Open the release's path through the network, and the same codec and text encoder as ours."""
    preset, device = plan.preset, options.device
    weights, placement = find_weights(preset, options.weights), Placement(device=device)
    model = PlainModel(load_model(weights, preset, device=device)[0])
    if not preset.model.has_learned_codec:
        return Networks(model, LappedCodec(preset.model.latent_scale), None, placement)
    from venhancer.encoders.autoencoder import load_codec
    from venhancer.encoders.text_encoder import load_text_encoder

    dtype = torch.float16 if device == "cuda" else torch.float32
    codec = load_codec(device=device, dtype=dtype)
    text_encoder = load_text_encoder(device=device, dtype=dtype)
    return Networks(model, codec, text_encoder, placement)


# --- all runs, in alternation ---------------------------------------------------------------------


MODULE = "benchmarks.speed.end_to_end"
VARIABLES = ("VENHANCER_VAE", "VENHANCER_TEXT_ENCODER")
BASELINES = {"pytorch": PLAIN, "rife-span": PEER}
MINUTE = 60 * 24  # frames of the output
MEMORY = ("peak_bytes", "device_bytes")
Row = dict[str, Any]


def tasks(args: argparse.Namespace, folder: Path) -> Iterator[Task]:
    """Yield the tasks, the baselines first."""
    weights = random_released(folder) if args.preset == RELEASED.name else None
    own = (OURS, FAST) if args.preset == RELEASED.name else (OURS,)  # NANO's modes are the same
    for name in (*(BASELINES[b] for b in BASELINES if b in args.baseline), *own):
        yield Task(
            name=name,
            preset=args.preset,
            weights=weights,
            device=args.device,
            frames=str(folder / f"{name}.npy"),
        )


def random_released(folder: Path) -> str:
    """Write a checkpoint and the networks round it; set the variables that child processes read."""
    os.environ.update(dict.fromkeys(VARIABLES, str(folder)))
    write_checkpoint(folder / "random.safetensors", RELEASED)
    write_companions(folder)
    return str(folder / "random.safetensors")


class Repeated:
    """A task that a fresh process does in every round."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.told: list[Told] = []

    def turn(self) -> float:
        worker = Worker(MODULE, dataclasses.asdict(self.task))
        worker.close()
        self.told.append(worker.told)
        stages = ", ".join(f"{name} {s:.1f}" for name, s in worker.told["stages"].items())
        print(f"{self.task.name}: {worker.told['seconds']:.1f} s ({stages})", flush=True)
        return float(worker.told["seconds"])


def measure(todo: Sequence[Task], rounds: int, ceiling: Mapping[str, Any]) -> list[Row]:
    """Measure a row for each task, in alternation; those that failed come last and say why."""
    runs = {task.name: Repeated(task) for task in todo}
    taken = in_turns(runs, rounds)
    told = {name: runs[name].told for name in taken.seconds}
    rows = summaries(told, CLIPS[todo[0].preset])
    for row in rows:
        if PLAIN in told and row["network"] not in (PLAIN, PEER):
            frames = (Path(runs[name].task.frames) for name in (row["network"], PLAIN))
            row["psnr_to_plain"] = compare(*frames)
        if row["flop"] is not None:
            seconds = row["model_seconds"]["median"]
            row["ceiling_share"] = share(row["flop"], seconds, ceiling, row["dtype"])
    lost = [{"network": name, "failed": reason(error)} for name, error in taken.failed.items()]
    return rows + lost


def summaries(told: Mapping[str, Sequence[Told]], clip: Clip) -> list[Row]:
    """Combine the rounds of each run; ratios are to the first baseline."""
    first = next((name for name in (PLAIN, PEER) if name in told), None)
    ratio = views(MINUTE // clip.interpolate * clip.interpolate + 1, clip) / views(clip.made, clip)
    rows = []
    for name, own in told.items():
        row = summary(own, clip.made, 1.0 if name == PEER else ratio)
        if first is not None:
            pair = told[first], own
            row["times_faster"] = speed_up(*(seconds(t, "seconds") for t in pair))
            row["model_times_faster"] = speed_up(*(seconds(t, "model_seconds") for t in pair))
        rows.append({"network": name, **row})
    return rows


def seconds(told: Sequence[Told], name: str) -> list[float]:
    return [one[name] for one in told]


def summary(told: Sequence[Told], frames: int, ratio: float) -> Row:
    """frames: of the output; ratio: how many times more often the model sees a frame of a minute"""
    named = {name: [one["stages"][name] for one in told] for name in told[0]["stages"]}
    stages = {name: spread(taken)["median"] for name, taken in named.items()}
    files, model = (spread(seconds(told, name)) for name in ("seconds", "model_seconds"))
    rest = files["median"] - model["median"] - stages["load"]
    model_minute = model["median"] * ratio * MINUTE / frames
    return {
        "steps": told[0]["steps"],
        "dtype": told[0]["dtype"],
        "flop": told[0].get("flop"),
        "seconds": files,
        "model_seconds": model,
        "stages": stages,
        "seconds_per_frame": four(files["median"] / frames),
        "model_seconds_per_frame": four(model["median"] / frames),
        "seconds_per_minute": four(stages["load"] + rest * MINUTE / frames + model_minute),
        "model_seconds_per_minute": four(model_minute),
        **{name: max(one[name] for one in told) for name in MEMORY if name in told[0]},
    }


def views(frames: int, clip: Clip) -> float:
    """Return frames evaluated per output frame; windows overlap, so some frames count twice."""
    made = frames if clip.key_stride > 1 else (frames - 1) // clip.interpolate + 1
    windows = temporal_windows(made, clip.window, clip.key_stride, clip.overlap)
    return len(windows) * len(windows[0]) / frames


def complaint(rows: Sequence[Row]) -> str | None:
    """Return one line if a run failed, or if our frames are too far from float32."""
    lost = [f"{row['network']}: {row['failed']}" for row in rows if "failed" in row]
    if lost:
        return "; ".join(lost)
    found = {row["network"]: row for row in rows}
    if PLAIN not in found or found[PLAIN]["dtype"] != "float32":
        return None
    least = found[OURS]["psnr_to_plain"]["least"]
    if least >= LEAST_PSNR:
        return None
    return f"ours is {least} dB from plain float32 in its worst frame: {LEAST_PSNR} is the least"


def main() -> None:
    child = given_task()
    if child is not None:
        serve(partial(prepare, Task(**child)), child["device"])
        return
    parser = make_parser(__doc__)
    parser.add_argument("--preset", choices=list(CLIPS), default=NANO.name)
    parser.add_argument("--baseline", choices=list(BASELINES), action="append", default=[])
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    args.device = choose_device(args.device)
    if "pytorch" in args.baseline:
        check_has_plain(PRESETS[args.preset])
    try:
        run(args)
    except PeerError as error:
        raise SystemExit(f"{MODULE}: {error}") from error


def run(args: argparse.Namespace) -> None:
    if "rife-span" in args.baseline:
        if args.device != "cpu":
            raise PeerError("RIFE and SPAN run on the processor: take --device cpu")
        peers.load_rife_span(SCALE)  # reports what is missing before anything runs
    ceiling = ceilings.measure(args.device, ceilings.DTYPES[args.device])
    print(ceilings.told(ceiling))
    with tempfile.TemporaryDirectory() as folder:
        rows = measure([*tasks(args, Path(folder))], args.rounds, ceiling)
    clip = CLIPS[args.preset]
    found = {
        "preset": args.preset,
        "rounds": args.rounds,
        "input": f"{clip.frames} x {clip.width}x{clip.height}",
        "output": f"{clip.made} x {clip.width * SCALE}x{clip.height * SCALE}",
        "least_psnr": LEAST_PSNR,
        "ceiling": ceiling,
        "runs": rows,
    }
    report(MODULE, args.device, found, args.out)
    if line := complaint(rows):
        raise SystemExit(f"{MODULE}: {line}")


if __name__ == "__main__":
    main()
