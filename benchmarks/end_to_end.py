"""Seconds from file to file, per stage, in all and at the peak of memory.

NANO: 16 frames of 512x320, twice the size and frames, once with the preset's own steps and once
with the 14 evaluations of the release. The released model at random weights: 32 frames of 640x360,
twice the size, in 14 evaluations and one window. `--baseline pytorch`: the first also as the
release's path does it. Every run has a process of its own, and loading counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.baseline import PlainModel
from benchmarks.random_models import write_checkpoint, write_companions
from benchmarks.timing import Work, make_parser, report
from benchmarks.turns import Memory, Worker, given_task, serve
from benchmarks.waves import write_clip
from venhancer import Options, pipeline
from venhancer.config import NANO, RELEASED, SolverName
from venhancer.device import choose_device
from venhancer.networks import Networks
from venhancer.options import Device
from venhancer.plan import Plan
from venhancer.reference import LappedCodec, Reference
from venhancer.sampler import Placement
from venhancer.weights import find_weights, load_model
from venhancer_rt.backends import Request, choose_backend

MODULE = "benchmarks.end_to_end"
VARIABLES = ("VENHANCER_VAE", "VENHANCER_TEXT_ENCODER")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What is enhanced, to twice its size."""

    frames: int
    width: int
    height: int
    interpolate: int
    window: int | None


CLIPS = {
    NANO.name: Clip(frames=16, width=512, height=320, interpolate=2, window=None),
    RELEASED.name: Clip(frames=32, width=640, height=360, interpolate=1, window=32),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run; network: `ours` or `plain`, the release's path."""

    network: str
    preset: str
    weights: str | None
    steps: int | None
    solver: SolverName | None
    device: Device


def prepare(task: Task) -> tuple[Work, Mapping[str, Any]]:
    """The run itself, and what it took: no worker has turns here."""
    clip, memory = CLIPS[task.preset], Memory(task.device)
    options = Options(
        scale=2.0,
        preset=task.preset,
        interpolate=clip.interpolate,
        window=clip.window,
        steps=task.steps,
        solver=task.solver,
        weights=None if task.weights is None else Path(task.weights),
        device=task.device,
        scene_cuts=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.mp4"
        write_clip(source, clip.frames, clip.width, clip.height)
        start = time.perf_counter()
        backend = choose_backend(Request(source=source, options=options))
        is_plain = task.network == "plain"
        networks = open_plain(backend.plan, options) if is_plain else backend.open()
        made = pipeline.enhance(backend.plan, source.with_name("out.mp4"), networks, options)
        seconds = time.perf_counter() - start
    steps = len(made.plan.sampling.schedule)
    told = {"steps": steps, "seconds": seconds, "stages": made.seconds, **memory.told()}
    return lambda: None, {"network": task.network, **told}


def open_plain(plan: Plan, options: Options) -> Networks:
    """The release's path through the network, and the same codec and text encoder as ours."""
    preset, seed, device = plan.preset, plan.sampling.seed, options.device
    weights, placement = find_weights(preset, options.weights), Placement(device=device)
    model = PlainModel(load_model(weights, preset, device=device)[0])
    if preset.model.codec == "lapped":
        return Reference(model, LappedCodec(preset.model.latent_scale), None, placement, seed)
    from venhancer.model.text import load_text_encoder
    from venhancer.model.vae import load_codec

    dtype = torch.float16 if device == "cuda" else torch.float32
    codec = load_codec(device=device, dtype=dtype)
    text_encoder = load_text_encoder(device=device, dtype=dtype)
    return Reference(model, codec, text_encoder, placement, seed)


def tasks(args: argparse.Namespace, weights: Path | None) -> Iterator[Task]:
    steps: list[tuple[int | None, SolverName | None]] = [(15, "fast")]
    if args.preset == NANO.name:
        steps.insert(0, (None, None))
    common = {"preset": args.preset, "weights": weights and str(weights), "device": args.device}
    for number, (count, solver) in enumerate(steps):
        is_compared = args.baseline is not None and number == 0
        for network in ("plain", "ours") if is_compared else ("ours",):
            yield Task(network=network, steps=count, solver=solver, **common)


def random_released(folder: Path) -> Path:
    """A checkpoint, and the networks round it where the environment tells children of them."""
    os.environ.update(dict.fromkeys(VARIABLES, str(folder)))
    write_checkpoint(folder / "random.safetensors", RELEASED)
    write_companions(folder)
    return folder / "random.safetensors"


def measure(task: Task) -> dict[str, Any]:
    worker = Worker(MODULE, dataclasses.asdict(task))
    worker.close()
    return worker.told


def main() -> None:
    child = given_task()
    if child is not None:
        serve(partial(prepare, Task(**child)), child["device"])
        return
    parser = make_parser(__doc__)
    parser.add_argument("--preset", choices=list(CLIPS), default=NANO.name)
    parser.add_argument("--baseline", choices=("pytorch",))
    args = parser.parse_args()
    args.device = choose_device(args.device)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        weights = random_released(Path(folder)) if args.preset == RELEASED.name else None
        for task in tasks(args, weights):
            runs.append(measure(task))
            print(line(runs[-1]), flush=True)
    report(MODULE, args.device, {"preset": args.preset, "runs": runs}, args.out)


def line(run: dict[str, Any]) -> str:
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in run["stages"].items())
    return f"{run['network']}, {run['steps']} evaluations: {run['seconds']:.1f} s ({stages})"


if __name__ == "__main__":
    main()
