"""One run from file to file: ours, the release's path in its place, or RIFE and SPAN."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.baseline import PlainModel
from benchmarks.frame_parity import FrameTap
from benchmarks.timing import Work
from benchmarks.turns import Memory
from benchmarks.waves import write_clip
from venhancer import Options
from venhancer.config import NANO, RELEASED, NewFrames
from venhancer.options import Device
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.networks import LappedCodec, Reference
from venhancer.pipeline.protocols import Networks
from venhancer.pipeline.stopwatch import Stopwatch
from venhancer.planning.cost import plan_flop
from venhancer.planning.plan import Plan
from venhancer.sampling.sampler import Placement
from venhancer.weights.checkpoint import find_weights, load_model
from venhancer_rt.backends import Request, choose_backend

PLAIN, OURS, FAST, PEER = "plain", "ours", "ours, --mode fast", "RIFE + SPAN"
SCALE = 2
Told = Mapping[str, Any]  # by the process of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What is enhanced, to twice its size."""

    frames: int
    width: int
    height: int
    interpolate: int
    window: int
    overlap: float
    new_frames: NewFrames

    @property
    def made(self) -> int:
        """Frames of the output."""
        return (self.frames - 1) * self.interpolate + 1

    @property
    def gap(self) -> int:
        """Frames that the model makes from one key frame to the next."""
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
    """The run itself, and what it took: no worker has turns here."""
    clip, memory = CLIPS[task.preset], Memory(task.device)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        write_clip(source, clip.frames, clip.width, clip.height)
        start = time.perf_counter()
        told = run_peer(clip, source, target) if task.name == PEER else run(task, source, target)
        seconds = time.perf_counter() - start
    return lambda: None, {"seconds": seconds, **told, **memory.told()}


def run_peer(clip: Clip, source: Path, target: Path) -> Told:
    stages = peers.enhance(source, target, SCALE, clip.interpolate)
    inference = stages["interpolate"] + stages["enlarge"]
    return {"steps": None, "dtype": "float32", "model_seconds": inference, "stages": stages}


def run(task: Task, source: Path, target: Path) -> Told:
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
    dtype = backend.dtype
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
    """The release's path through the network, and the same codec and text encoder as ours."""
    preset, seed, device = plan.preset, plan.sampling.seed, options.device
    weights, placement = find_weights(preset, options.weights), Placement(device=device)
    model = PlainModel(load_model(weights, preset, device=device)[0])
    if preset.model.codec == "lapped":
        return Reference(model, LappedCodec(preset.model.latent_scale), None, placement, seed)
    from venhancer.encoders.autoencoder import load_codec
    from venhancer.encoders.text_encoder import load_text_encoder

    dtype = torch.float16 if device == "cuda" else torch.float32
    codec = load_codec(device=device, dtype=dtype)
    text_encoder = load_text_encoder(device=device, dtype=dtype)
    return Reference(model, codec, text_encoder, placement, seed)
