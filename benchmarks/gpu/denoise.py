"""One guided evaluation of the released model at 720p, random weights, in several ways.

exact: eager in float32, which the others are compared with; eager; graph: the same as a CUDA graph;
reuse: the finest level alone; compiled: torch.compile; long: 32 frames instead of 16; plain: the
release's order of operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.baseline import PlainModel
from benchmarks.ceiling import branches, evaluation_flop
from benchmarks.denoise_variants import Task, make_evaluation, repeated
from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import Setting, card_peak, relative_error, tensor_float32, timed
from benchmarks.random_models import random_model
from benchmarks.turns import make_room
from venhancer.config import Preset
from venhancer.planning.cost import finest_flop
from venhancer.sampling.evaluation import Evaluation, Model
from venhancer_rt.cuda_graph import WARM_UPS

STEP = "denoise"
WINDOW, LONG = 16, 32
WAYS = ("exact", "eager", "graph", "reuse", "long", "compiled", "plain")
OWN_MODEL = ("exact", "plain")  # ways that need the weights in float32
ERROR = 2e-2  # relative: more is no rounding


@dataclass(slots=True)
class Shared:
    """The model that most ways evaluate, made once, and x_0 of the exact way."""

    setting: Setting
    model: Model | None = None
    exact: Tensor | None = None

    def load(self, way: str) -> Model:
        """float32 ways have the memory to themselves: the shared model makes room for theirs."""
        preset, device = self.setting.preset, self.setting.device
        if way in OWN_MODEL:
            self.model = None
            make_room(device)
            made = random_model(preset, torch.float32, device)
            return PlainModel(made) if way == "plain" else made
        if self.model is None:
            self.model = random_model(preset, getattr(torch, self.setting.dtype), device)
        return self.model


def run(setting: Setting, recorder: Recorder) -> None:
    shared = Shared(setting)
    ways = setting.ways or WAYS
    if setting.device == "cpu":
        ways = tuple(way for way in ways if way not in ("graph", "compiled"))
    for way in ways:
        recorder.attempt(f"{way}, {setting.dtype}", partial(measure, way, shared))
        make_room(setting.device)


def make_task(setting: Setting, way: str) -> Task:
    """The way as `denoise_step` names it, at the sizes of this run."""
    variant = "eager" if way in ("exact", "long") else way
    return Task(
        variant=variant,
        preset=setting.preset.name,
        shape=setting.shape(LONG if way == "long" else WINDOW),
        dtype="float32" if way == "exact" else setting.dtype,
        device=setting.device,
        weights="",
        out="",
    )


def measure(way: str, shared: Shared) -> Found:
    """Seconds, operations, error and memory of one way."""
    setting, task = shared.setting, make_task(shared.setting, way)
    model = shared.load(way)
    is_guided = branches(model.config) == 2
    seconds: list[float] = []
    with torch.inference_mode(), tensor_float32(way == "plain"):
        evaluation = make_evaluation(model, task)
        evaluation.prepare()
        if way == "reuse":
            evaluation.run(is_guided)  # keeps what it reuses
        work = repeated(task, evaluation, is_guided)

        def rounds() -> None:
            for _ in range(setting.times(1 if way == "exact" else WARM_UPS + 1)):
                work()
            seconds.extend(timed(work, setting.device, setting.times(1 if way == "exact" else 3)))

        peak = card_peak(setting.device, rounds)
    return {"frames": task.shape[2], **figures(way, shared, evaluation, seconds), **peak}


def figures(way: str, shared: Shared, evaluation: Evaluation, seconds: list[float]) -> Found:
    """Rates and the error of a way; the error is x_0's, against the exact way's."""
    frames, rows, columns = evaluation.x0.shape[2:]
    flop = flop_of(way, shared.setting.preset, frames, rows, columns)
    found = {
        "seconds": seconds,
        "tflop": round(flop / 1e12, 1),
        "tflops": round(flop / min(seconds) / 1e12, 1),
    }
    if way == "exact":
        shared.exact = evaluation.x0.clone()
    if shared.exact is None or shared.exact.shape != evaluation.x0.shape:
        return {**found, "right": bool(evaluation.x0.isfinite().all())}
    error = relative_error(evaluation.x0, shared.exact)
    is_near = error <= ERROR or way == "reuse"  # which is another computation
    return {**found, "relative_error": error, "right": is_near}


def flop_of(way: str, preset: Preset, frames: int, rows: int, columns: int) -> int:
    """Operations of the way, both branches."""
    if way == "reuse":
        return finest_flop(preset.model, frames, rows, columns, branches(preset.model))
    return evaluation_flop(preset.model, frames, rows, columns)
