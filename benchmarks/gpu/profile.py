"""Divides the time of one guided evaluation: the card's kernels by kind, and the longest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as record

from benchmarks.ceiling import branches
from benchmarks.denoise_variants import make_evaluation
from benchmarks.gpu.denoise import make_task
from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import Setting
from benchmarks.random_models import random_model
from benchmarks.timing import Work, four, wait

STEP = "profile"
KINDS = {  # the first whose word is part of a kernel's name
    "attention": ("flash", "fmha", "sdpa", "attention", "mha"),
    "group norm": ("groupnorm", "group_norm", "rowwisemoments", "computefusedparams"),
    "layer norm": ("layer_norm", "layernorm"),
    "layout copy": ("copy", "nchwtonhwc", "nhwctonchw", "transpose", "permute"),
    "convolution": ("conv", "fprop", "cudnn", "implicit"),
    "matrix product": ("gemm", "cutlass", "cublas", "nvjet", "wgmma", "s16816", "splitk"),
    "pointwise": ("elementwise", "gelu", "silu", "add", "mul", "catarray", "triton_poi", "index"),
}
OTHER = "other"
LONGEST = 40  # kernels that are told by name, in the log


def run(setting: Setting, recorder: Recorder) -> None:
    recorder.attempt(f"one evaluation, {setting.dtype}", partial(measure, setting))


def measure(setting: Setting) -> Found:
    """Milliseconds and launches of each kind."""
    model = random_model(setting.preset, getattr(torch, setting.dtype), setting.device)
    is_guided = branches(model.config) == 2
    with torch.inference_mode():
        evaluation = make_evaluation(model, make_task(setting, "eager"))
        evaluation.prepare()
        evaluation.run(is_guided)
        events = recorded(partial(evaluation.run, is_guided), setting.device)
    rows = [(milliseconds(event), event.count, str(event.key)) for event in events]
    for ms, count, name in sorted(rows, reverse=True)[:LONGEST]:
        print(f"{ms:9.2f} ms  {count:5}  {name[:150]}", flush=True)
    return {"kinds": by_kind(rows), "ms": four(sum(ms for ms, _, _ in rows))}


def recorded(work: Work, device: str) -> list[Any]:
    """The profiler's events of some work, added up by name."""
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
    """Its own time, without that of what it calls: on the card, or on the processor."""
    return float(event.self_device_time_total or event.self_cpu_time_total) / 1000


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(w in name for w in words)), OTHER)


def by_kind(rows: Iterable[tuple[float, int, str]]) -> dict[str, dict[str, float]]:
    """Milliseconds and launches, the longest kind first."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for ms, count, name in rows:
        sums[kind_of(name)][0] += ms
        sums[kind_of(name)][1] += count
    ranked = sorted(sums.items(), key=lambda item: -item[1][0])
    return {kind: {"ms": four(ms), "launches": int(count)} for kind, (ms, count) in ranked}
