"""Is it fast? The released model at 720p: an evaluation, its profile, and the autoencoder.

Weights are random. The variants of one guided evaluation: exact, eager in float32, the reference
for the others; eager; graph, the same as a CUDA graph; reuse, the finest level alone; compiled, by
torch.compile; long, 32 frames instead of 16; plain, the release's order of operations.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as record

from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import FRAME, Setting, card_peak, relative_error, tensor_float32, timed
from benchmarks.interleaved import make_room
from benchmarks.measuring import Work, four, wait
from benchmarks.random_models import random_model
from benchmarks.speed import vae
from benchmarks.speed.ceiling import branches, evaluation_flop
from benchmarks.speed.denoise_variants import Task, make_evaluation, repeated
from benchmarks.speed.plain_network import PlainModel
from venhancer.config import Preset
from venhancer.planning.cost import finest_flop
from venhancer.sampling.evaluation import Evaluation, Model
from venhancer_rt.cuda_graph import WARM_UPS

WINDOW, LONG = 16, 32
WAYS = ("exact", "eager", "graph", "reuse", "long", "compiled", "plain")
OWN_MODEL = ("exact", "plain")  # variants that need the weights in float32
ERROR = 2e-2  # relative: more than rounding explains


@dataclass(slots=True)
class Shared:
    """The model that most variants evaluate, made once, and x_0 of the exact variant."""

    setting: Setting
    model: Model | None = None
    exact: Tensor | None = None

    def load(self, way: str) -> Model:
        """Return the variant's model; float32 variants first free the shared one's memory."""
        preset, device = self.setting.preset, self.setting.device
        if way in OWN_MODEL:
            self.model = None
            make_room(device)
            made = random_model(preset, torch.float32, device)
            return PlainModel(made) if way == "plain" else made
        if self.model is None:
            self.model = random_model(preset, getattr(torch, self.setting.dtype), device)
        return self.model


def run_denoise(setting: Setting, recorder: Recorder) -> None:
    shared = Shared(setting)
    ways = setting.ways or WAYS
    if setting.device == "cpu":
        ways = tuple(way for way in ways if way not in ("graph", "compiled"))
    for way in ways:
        recorder.attempt(f"{way}, {setting.dtype}", partial(measure_way, way, shared))
        make_room(setting.device)


def make_task(setting: Setting, way: str) -> Task:
    """Make the task of a variant as `denoise_step` names it, at the sizes of this run."""
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


def measure_way(way: str, shared: Shared) -> Found:
    """Measure seconds, operations, error and memory of one variant."""
    setting, task = shared.setting, make_task(shared.setting, way)
    model = shared.load(way)
    is_guided = branches(model.config) == 2
    seconds: list[float] = []
    with torch.inference_mode(), tensor_float32(way == "plain"):
        evaluation = make_evaluation(model, task)
        evaluation.prepare()
        if way == "reuse":
            evaluation.run(is_guided)  # keeps the features to reuse
        work = repeated(task, evaluation, is_guided)

        def rounds() -> None:
            for _ in range(setting.times(1 if way == "exact" else WARM_UPS + 1)):
                work()
            seconds.extend(timed(work, setting.device, setting.times(1 if way == "exact" else 3)))

        peak = card_peak(setting.device, rounds)
    return {"frames": task.shape[2], **figures(way, shared, evaluation, seconds), **peak}


def figures(way: str, shared: Shared, evaluation: Evaluation, seconds: list[float]) -> Found:
    """Compute the rates of a variant, and the error of its x_0 against the exact variant's."""
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
    is_near = error <= ERROR or way == "reuse"  # `reuse` is another computation
    return {**found, "relative_error": error, "right": is_near}


def flop_of(way: str, preset: Preset, frames: int, rows: int, columns: int) -> int:
    """Count the operations of a variant, both branches."""
    if way == "reuse":
        return finest_flop(preset.model, frames, rows, columns, branches(preset.model))
    return evaluation_flop(preset.model, frames, rows, columns)


# --- the profile: kernels by kind, and the longest ------------------------------------------------


KINDS = {  # the first entry whose word is part of a kernel's name
    "attention": ("flash", "fmha", "sdpa", "attention", "mha"),
    "group norm": ("groupnorm", "group_norm", "rowwisemoments", "computefusedparams"),
    "layer norm": ("layer_norm", "layernorm"),
    "layout copy": ("copy", "nchwtonhwc", "nhwctonchw", "transpose", "permute"),
    "convolution": ("conv", "fprop", "cudnn", "implicit"),
    "matrix product": ("gemm", "cutlass", "cublas", "nvjet", "wgmma", "s16816", "splitk"),
    "pointwise": ("elementwise", "gelu", "silu", "add", "mul", "catarray", "triton_poi", "index"),
}
OTHER_KIND = "other"
LONGEST_KERNELS = 40  # kernels that the log lists by name


def run_profile(setting: Setting, recorder: Recorder) -> None:
    recorder.attempt(f"one evaluation, {setting.dtype}", partial(profile_evaluation, setting))


def profile_evaluation(setting: Setting) -> Found:
    """Measure milliseconds and launches of each kind of kernel."""
    model = random_model(setting.preset, getattr(torch, setting.dtype), setting.device)
    is_guided = branches(model.config) == 2
    with torch.inference_mode():
        evaluation = make_evaluation(model, make_task(setting, "eager"))
        evaluation.prepare()
        evaluation.run(is_guided)
        events = recorded(partial(evaluation.run, is_guided), setting.device)
    rows = [(milliseconds(event), event.count, str(event.key)) for event in events]
    for ms, count, name in sorted(rows, reverse=True)[:LONGEST_KERNELS]:
        print(f"{ms:9.2f} ms  {count:5}  {name[:150]}", flush=True)
    return {"kinds": by_kind(rows), "ms": four(sum(ms for ms, _, _ in rows))}


def recorded(work: Work, device: str) -> list[Any]:
    """Return the profiler's events of some work, added up by name."""
    kind = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    wait(device)
    with record(activities=[kind]) as found:
        work()
        wait(device)
    events = found.key_averages()
    if device != "cuda":
        return list(events)
    return [event for event in events if event.device_type.name == "CUDA"]  # no calls of CUDA


def milliseconds(event: Any) -> float:
    """Return an event's own time, without that of its callees: on the card, or on the processor."""
    return float(event.self_device_time_total or event.self_cpu_time_total) / 1000


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next(
        (kind for kind, words in KINDS.items() if any(w in name for w in words)), OTHER_KIND
    )


def by_kind(rows: Iterable[tuple[float, int, str]]) -> dict[str, dict[str, float]]:
    """Sum milliseconds and launches by kind, the longest kind first."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for ms, count, name in rows:
        sums[kind_of(name)][0] += ms
        sums[kind_of(name)][1] += count
    ranked = sorted(sums.items(), key=lambda item: -item[1][0])
    return {kind: {"ms": four(ms), "launches": int(count)} for kind, (ms, count) in ranked}


# --- the autoencoder, in PyTorch's layout and channels last ---------------------------------------


CODEC_FRAMES = (1, 3)
SMALL_CODEC = (32, 32)
CODEC_ROUNDS = 4


def run_codec(setting: Setting, recorder: Recorder) -> None:
    for work, frames, layout in itertools.product(vae.WORKS, CODEC_FRAMES, vae.LAYOUTS):
        if setting.is_small and (frames, layout) != (CODEC_FRAMES[0], next(iter(vae.LAYOUTS))):
            continue
        task = vae.Task(
            work=work,
            layout=layout,
            size=SMALL_CODEC if setting.is_small else FRAME,
            frames=frames,
            dtype=setting.dtype,
            device=setting.device,
        )
        what = f"{work}, {frames} at a time, {layout}"
        recorder.attempt(what, partial(measure_codec, task, setting))
        make_room(setting.device)


def measure_codec(task: vae.Task, setting: Setting) -> Found:
    """Measure the fastest round, its rate, and the memory that it takes."""
    work, told = vae.prepare(task)
    best = min(timed(work, task.device, setting.times(CODEC_ROUNDS)))
    return {
        "ms_a_frame": four(1000 * best / task.frames),
        "tflops": round(vae.codec_flop(task) / best / 1e12, 1),
        **told,
    }
