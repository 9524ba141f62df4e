"""One evaluation prepared as one of several variants: the work of a `denoise_step` worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.interleaved import Memory
from benchmarks.measuring import Work, wait
from benchmarks.random_models import random_model
from benchmarks.speed.ceiling import branches
from benchmarks.speed.plain_network import PlainModel
from venhancer.bundle.manifest import read_manifest
from venhancer.bundle.static_networks import StaticDenoiser
from venhancer.config import PRESETS, Preset
from venhancer.contract import TEXT_LENGTH, Shape, sizes
from venhancer.device import keep_freed_memory
from venhancer.model.denoiser import Denoiser
from venhancer.planning.plan import Sampling
from venhancer.sampling.coarse_features import CoarseFeatures
from venhancer.sampling.evaluation import Conditions, Evaluation, Model
from venhancer.spans import Span
from venhancer.weights.checkpoint import load_model
from venhancer_rt.backends import open_runs
from venhancer_rt.bundle_reader import open_bundle
from venhancer_rt.cuda_graph import WARM_UPS, GraphCapture
from venhancer_rt.onnx_session import OnnxSession

REFERENCE = "reference"  # eager in float32, without reduced-precision products
CAPTURED = ("graph", "engine")
KEY_STRIDE = 2  # frames from one key frame to the next, if the model makes those between
DOWNSCALING = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One variant at one shape."""

    variant: str
    preset: str
    shape: tuple[int, int, int]  # width, height, window
    dtype: str
    device: str
    weights: str  # empty: random ones
    bundle: str | None = None  # for `onnx` and `engine`
    out: str  # the file that takes the result

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes by the contract's letters."""
        width, height, window = self.shape
        shape = Shape(width=width, height=height, window=window)
        return sizes(PRESETS[self.preset].model, shape)


def prepare(task: Task) -> tuple[Work, Mapping[str, Any]]:
    """Prepare and warm up the evaluation -> it, and the memory and time of preparing it."""
    torch.backends.cudnn.allow_tf32 = task.variant != REFERENCE
    start, memory = time.perf_counter(), Memory(task.device)
    evaluation = make_evaluation(load(task), task)
    memory.forget_peak()
    is_guided = branches(evaluation.model.config) == 2
    with torch.inference_mode():
        evaluation.prepare()
        work = repeated(task, evaluation, is_guided)
        if task.variant == "reuse":
            evaluation.run(is_guided)  # keeps the features to reuse
        for _ in range(WARM_UPS + 1 if task.device == "cuda" else 1):
            work()
    wait(task.device)
    torch.save(evaluation.x0.cpu(), task.out)
    return torch.inference_mode()(work), {
        "build_seconds": round(time.perf_counter() - start, 1),
        **memory.told(),
    }


def load(task: Task) -> Model:
    """Load the network; with freed memory kept if the product would keep it."""
    if task.bundle is not None:
        return StaticDenoiser(PRESETS[task.preset].model, task.sizes, open_networks(task))
    if task.variant == "plain":
        return PlainModel(load_denoiser(task, torch.float32))
    if task.device == "cpu":
        keep_freed_memory()
    return load_denoiser(task, getattr(torch, task.dtype))


def load_denoiser(task: Task, dtype: torch.dtype) -> Denoiser:
    """Load the weights of the task, or random ones, in a precision."""
    preset = PRESETS[task.preset]
    if not task.weights:
        return random_model(preset, dtype, task.device)
    return load_model(Path(task.weights), preset, dtype=dtype, device=task.device)[0]


def open_networks(task: Task) -> Mapping[str, Any]:
    """Open the networks of a bundle.

    TINY's has no codec, so its ONNX files are opened one by one.
    """
    folder = Path(task.bundle or "")
    if task.variant == "onnx":
        entries = read_manifest(folder).entries
        return {e.network: OnnxSession(folder / e.file, e, task.device) for e in entries}
    width, height, window = task.shape
    shape = Shape(width=width, height=height, window=window)
    return open_runs(open_bundle(folder), shape, task.device)


def repeated(task: Task, evaluation: Evaluation, is_guided: bool) -> Work:
    """Return the evaluation as the variant repeats it: eager, finest level, compiled or captured.

    A model of one step prepares for every evaluation, so preparing is part of its work.
    """
    work: Callable[[], None] = partial(evaluation.run, is_guided, task.variant == "reuse")
    if task.variant == "compiled":
        work = torch.compile(work, dynamic=False)
    if task.variant in CAPTURED:
        work = GraphCapture()(work)
    if PRESETS[task.preset].defaults.steps > 1:
        return work

    def window() -> None:
        evaluation.prepare()
        work()

    return window


def make_evaluation(model: Model, task: Task) -> Evaluation:
    """Make the first, noisiest step of the preset's schedule, on fixed random inputs.

    There x_0 depends most on the network.
    """
    preset, generator = PRESETS[task.preset], torch.Generator().manual_seed(0)
    width, length = model.config.unet.text_width, task.sizes["f"]
    shown = (branches(model.config), TEXT_LENGTH, width)
    text = torch.randn(shown, generator=generator) if width else None
    with torch.inference_mode():
        features = model.prepare_text(None if text is None else text.to(task.device))
        conditions = Conditions(preset.defaults.refine, DOWNSCALING, text)
        sampling = make_sampling(preset, task.sizes)
        coarse = keep_coarse(model, sampling, task) if task.variant == "reuse" else None
        evaluation = Evaluation(model, sampling, conditions, features, length, task.device, coarse)
        for buffer in (evaluation.latents, evaluation.shown):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
        evaluation.latents.div_(evaluation.seen[0])
    return evaluation


def keep_coarse(model: Model, sampling: Sampling, task: Task) -> CoarseFeatures:
    """Allocate one window's coarse features."""
    dtype = getattr(torch, task.dtype)
    return CoarseFeatures(model.config.unet, sampling, 1, dtype, task.device)


def make_sampling(preset: Preset, letters: Mapping[str, int]) -> Sampling:
    """Make a plan of one window and one tile, with the preset's own steps."""
    defaults = preset.defaults
    return Sampling(
        solver=defaults.solver,
        steps=defaults.steps,
        eta=defaults.eta,
        guidance=defaults.guidance if preset.model.unet.text_width else 1.0,
        guidance_interval=(0, 999),
        reuse=1,
        seed=0,
        window=letters["f"],
        key_stride=KEY_STRIDE if defaults.new_frames == "model" else 1,
        rows=(Span(0, letters["h"]),),
        columns=(Span(0, letters["w"]),),
        join="blend",
    )
