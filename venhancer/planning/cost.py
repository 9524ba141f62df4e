"""Cost of a plan, estimated before it runs: operations and time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from venhancer.config import ModelConfig
from venhancer.contract import TEXT_LENGTH, model_inputs
from venhancer.model.denoiser import Denoiser, UNetDenoiser, make_denoiser
from venhancer.planning.plan import Plan
from venhancer.planning.windows import Scene

MATMUL_SHARE = 0.25  # of the matmul rate: reached by the eager network, where that cannot be timed


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimates of one run."""

    tflop: float  # of the denoiser, over the whole run
    seconds: float  # of the denoiser


@cache
def denoiser_flop(
    model: ModelConfig, frames: int, rows: int, columns: int, branches: int = 1
) -> int:
    """Count the operations (two per multiply-add) of one evaluation, from shapes alone."""
    with torch.device("meta"):
        network = make_denoiser(model)
        inputs = branch_inputs(model, frames, rows, columns, branches)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(**inputs)
    return int(counter.get_total_flops())


@cache
def finest_flop(model: ModelConfig, frames: int, rows: int, columns: int, branches: int = 1) -> int:
    """Count the operations of an evaluation that reuses coarse features."""
    with torch.device("meta"):
        network = UNetDenoiser(model)
        inputs = branch_inputs(model, frames, rows, columns, branches)
        coarse = torch.ones(branches * frames, *model.unet.coarse_size(rows, columns))
    with torch.no_grad():
        latents, timestep = inputs.pop("latents"), inputs.pop("timestep")
        text_features = network.prepare_text(inputs.pop("text", None))
        prepared = network.prepare(**inputs, text_features=text_features)
        with FlopCounterMode(display=False) as counter:
            network.step_reusing(latents, timestep, prepared, coarse)
    return int(counter.get_total_flops())


def branch_inputs(
    model: ModelConfig, frames: int, rows: int, columns: int, branches: int
) -> dict[str, Tensor]:
    """Make `sample_inputs` of one clip, with one text for each branch of guidance."""
    inputs = sample_inputs(model, frames, rows, columns)
    if "text" in inputs:
        inputs["text"] = inputs["text"].expand(branches, -1, -1)
    return inputs


def sample_inputs(
    model: ModelConfig, frames: int, rows: int, columns: int, clips: int = 1
) -> dict[str, Tensor]:
    """Make inputs of `Denoiser.forward` by name: all ones, for counting and timing."""
    sizes = {"b": clips, "f": frames, "h": rows, "w": columns, "l": TEXT_LENGTH}
    return {
        spec.name: torch.ones(spec.shape(sizes), dtype=getattr(torch, spec.dtype))
        for spec in model_inputs(model)
    }


def estimate(plan: Plan, device: str, dtype: torch.dtype) -> Cost:
    """Count the operations, and time a little work on `device` to estimate the seconds."""
    flop = plan_flop(plan, device)
    return Cost(flop / 1e12, flop / calibrate(plan.preset.model, device, dtype))


def plan_flop(plan: Plan, device: str) -> int:
    """Count the denoiser's operations in a whole run of PyTorch's networks."""
    model = evaluated(plan.preset.model, device, plan.refine)
    return sum(scene_flop(plan, scene, model) for scene in plan.scenes)


def evaluated(model: ModelConfig, device: str, refine: int) -> ModelConfig:
    """Return the model as evaluated: a CPU skips a flat body's repair for clean key frames."""
    if device != "cpu" or refine > 1:
        return model
    return dataclasses.replace(model, unet=dataclasses.replace(model.unet, repair_blocks=0))


def scene_flop(plan: Plan, scene: Scene, model: ModelConfig) -> int:
    """Count the operations of all windows of a scene; a short scene has shorter windows.

    model: the plan's model, as `evaluated` returns it
    """
    s, tiles = plan.sampling, len(plan.sampling.rows) * len(plan.sampling.columns)
    size = plan.computed_frames(scene), len(s.rows[0]), len(s.columns[0])
    guided = map(s.is_guided, s.schedule.timesteps.tolist())
    passes = zip(guided, s.reusing, strict=True)
    flop = sum(
        (finest_flop if reuses else denoiser_flop)(model, *size, 2 if is_guided else 1)
        for is_guided, reuses in passes
    )
    return flop * len(scene.windows) * tiles


@cache
def weight_bytes(model: ModelConfig, dtype: torch.dtype) -> int:
    with torch.device("meta"):
        network = make_denoiser(model)
    return sum(p.numel() for p in network.parameters()) * dtype.itemsize


SMALL = 100_000_000  # parameters; a network of at most this size is timed itself


def calibrate(model: ModelConfig, device: str, dtype: torch.dtype) -> float:
    """Measure operations per second: on a small clip, or on a matmul for a large network."""
    if weight_bytes(model, torch.int8) <= SMALL:
        frames, side = 9, 8 * model.unet.size_step
        rows = side + model.unet.row_remainder
        network: Denoiser = make_denoiser(model).eval().to(device=device, dtype=dtype)
        inputs = {k: v.to(device) for k, v in sample_inputs(model, frames, rows, side).items()}
        with torch.inference_mode():
            seconds = _seconds(lambda: network(**inputs), device)
        return denoiser_flop(model, frames, rows, side) / seconds
    size = 2048
    left = torch.ones(size, size, device=device, dtype=dtype)
    return MATMUL_SHARE * 2 * size**3 / _seconds(lambda: left @ left, device)


def _seconds(work: Callable[[], object], device: str) -> float:
    """Time the faster of two runs, after a warm-up."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
