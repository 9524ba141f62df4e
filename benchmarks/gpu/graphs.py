"""Measures what a CUDA graph gains: no graph, the network only, the whole window step.

The sampler does its window steps as in a run, latents on the card. Milliseconds are per window
step, from setting the input tensors to the solver's update. All variants must give the same bits.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import Setting
from benchmarks.interleaved import make_room
from benchmarks.measuring import four, wait
from benchmarks.random_models import random_model
from benchmarks.speed.denoise_variants import DOWNSCALING, make_sampling
from venhancer.config import NANO, TINY, Preset
from venhancer.contract import TEXT_LENGTH
from venhancer.planning.capacity import capacity_for
from venhancer.planning.plan import Sampling
from venhancer.planning.windows import Scene
from venhancer.sampling.blending import Blending
from venhancer.sampling.evaluation import Conditions, Model
from venhancer.sampling.latents import Latents
from venhancer.sampling.sampler import Capture, Placement, Sampler, WindowWork, Work
from venhancer.spans import Span
from venhancer_rt.cuda_graph import WARM_UPS, GraphCapture

WINDOWS = 24  # of a model of one step: as many window steps
STEPS = 8  # of a model of many steps: window steps of its one window
SETTLING = WARM_UPS + 2  # window steps that do not count: up to the capture, and one replay


@dataclass(frozen=True, slots=True)
class Shape:
    """A model and the latents of its frames."""

    preset: Preset
    window: int
    rows: int
    columns: int

    def __str__(self) -> str:
        stride = self.preset.model.latent_stride
        size = f"{stride * self.columns}x{stride * self.rows}"
        return f"{self.preset.name}, {self.window} frames of {size}"


class NetworkGraphs(Sampler):
    """Captures the network alone, wherever the latents are held."""

    def _work(self, length: int) -> WindowWork:
        if length not in self.works:
            blending = Blending(self.latents, self.sampling, length, is_static=False)
            evaluation = self._evaluation(length, self.placement.device)
            self.works[length] = WindowWork(blending, evaluation, self.placement.capture)
        return self.works[length]


def as_it_is(work: Work) -> Work:
    """Return the work unchanged: stands in for a capture where there is no card."""
    return work


def ways(device: str) -> Mapping[str, Callable[[], tuple[type[Sampler], Capture | None]]]:
    """List the variants by name: each makes a sampler class and what captures its work."""
    capture: Callable[[], Capture] = GraphCapture if device == "cuda" else lambda: as_it_is
    return {
        "none": lambda: (Sampler, None),
        "network only": lambda: (NetworkGraphs, capture()),
        "whole step": lambda: (Sampler, capture()),
    }


def shapes(setting: Setting) -> list[Shape]:
    """List the cases: NANO at 640x368 and at 720p, and the released model at 720p."""
    if setting.is_small:
        return [Shape(NANO, 3, 8, 8), Shape(TINY, 4, 10, 8)]
    width, height, window = setting.shape(16)
    released = Shape(setting.preset, window, height // 8, width // 8)
    return [Shape(NANO, 3, 92, 160), Shape(NANO, 3, 180, 320), released]


def run_graphs(setting: Setting, recorder: Recorder) -> None:
    for shape in shapes(setting):
        model = random_model(shape.preset, getattr(torch, setting.dtype), setting.device)
        made: dict[str, Tensor] = {}
        for name, way in ways(setting.device).items():
            work = partial(measure, name, way, model, shape, made)
            recorder.attempt(f"{shape}: {name}", partial(work, setting.device))
            make_room(setting.device)


def measure(
    name: str,
    way: Callable[[], tuple[type[Sampler], Capture | None]],
    model: Model,
    shape: Shape,
    made: dict[str, Tensor],
    device: str,
) -> Found:
    """Measure the seconds of a window step, and tell if x_0 equals that of the first variant."""
    kind, capture = way()
    sampling, scene = plan(shape)
    sampler = make_sampler(kind, model, sampling, scene, Placement(device=device, capture=capture))
    seconds, frames, before = [], [], time.perf_counter()
    with torch.inference_mode():
        for ready in sampler.run(scene, iter(key_frames(shape, scene)), 0, lambda: None):
            wait(device)
            seconds.append(time.perf_counter() - before)
            frames.append(ready.cpu())
            before = time.perf_counter()
    made[name] = torch.cat(frames)
    counted = seconds[SETTLING:]
    first = next(iter(made.values()))
    return {
        "ms_a_turn": four(1000 * statistics.median(counted)),
        "least_ms": four(1000 * min(counted)),
        "turns": len(counted),
        "right": bool(torch.equal(first, made[name])),
    }


def plan(shape: Shape) -> tuple[Sampling, Scene]:
    """Plan one tile; one window for a model of many steps, many windows for a model of one step."""
    letters = {"f": shape.window, "h": shape.rows, "w": shape.columns}
    sampling = make_sampling(shape.preset, letters)
    if sampling.steps > 1:
        sampling = dataclasses.replace(sampling, steps=STEPS, solver="normal")
        windows: tuple[Span, ...] = (Span(0, shape.window),)
    else:
        starts = range(0, WINDOWS * shape.window, shape.window)
        windows = tuple(Span(start, start + shape.window) for start in starts)
    keys = math.ceil(windows[-1].stop / sampling.key_stride)
    stop = (keys - 1) * sampling.key_stride + 1
    windows = (*windows[:-1], Span(windows[-1].start, stop))
    return dataclasses.replace(sampling, window=len(windows[0])), Scene(
        Span(0, keys), sampling.key_stride, windows
    )


def make_sampler(
    kind: type[Sampler], model: Model, sampling: Sampling, scene: Scene, placement: Placement
) -> Sampler:
    """Make a sampler as a run does, latents on the device that computes."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    size = (config.unet.latent_channels, len(sampling.rows[0]), len(sampling.columns[0]))
    room = capacity_for((scene,), len(sampling.schedule))
    latents = Latents(room, size, placement.device, config.neighbour_channels)
    shown, width = (sampling.branches, TEXT_LENGTH), config.unet.text_width
    text = torch.randn(*shown, width, generator=generator) if width else None
    return kind(model, sampling, Conditions(0, DOWNSCALING, text), latents, placement)


def key_frames(shape: Shape, scene: Scene) -> Tensor:
    """Make random latents and neighbour channels of every key frame: k c h w."""
    model = shape.preset.model
    channels = model.unet.latent_channels + model.neighbour_channels
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(scene.keys), channels, shape.rows, shape.columns, generator=generator)
