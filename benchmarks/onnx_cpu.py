"""NANO on a CPU: PyTorch against ONNX Runtime, by turns: one evaluation, and a run file to file.

Evaluations are of the network alone, `prepare` and one step, at two sizes of the output; the run is
of the sample clip. Which is faster is the default of `make demo`; how far the frames are apart is
in the result too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.frame_parity import mean_and_least, psnr
from benchmarks.machine import ROOT, describe_run
from venhancer import Options
from venhancer.bundle.static_networks import StaticDenoiser
from venhancer.config import NANO
from venhancer.contract import Shape, sizes
from venhancer.device import choose_dtype, keep_freed_memory
from venhancer.options import Dtype
from venhancer.pipeline import run as pipeline
from venhancer.planning.cost import sample_inputs
from venhancer.sampling.evaluation import Model
from venhancer.video.probe import probe
from venhancer.weights.checkpoint import find_weights, load_model
from venhancer_export.bundle_writer import build_bundle
from venhancer_export.request import make_request
from venhancer_rt.backends import Request, choose_backend, open_runs
from venhancer_rt.bundle_reader import Bundle, open_bundle

CLIP = ROOT / "assets" / "butterfly.mp4"
WAYS: dict[str, tuple[Dtype, bool]] = {  # precision, by ONNX Runtime
    "pytorch auto": ("auto", False),
    "pytorch float32": ("float32", False),
    "onnxruntime float32": ("auto", True),
}
SIZES = ((640, 368), (1280, 720))


def run_options(dtype: Dtype, weights: Path | None) -> Options:
    """Four times the size and twice the frames."""
    return Options(
        scale=4.0, interpolate=2, dtype=dtype, device="cpu", overwrite=True, weights=weights
    )


def needed_shape(weights: Path | None) -> Shape:
    """The one shape that the default plan takes for the sample clip."""
    request = Request(source=CLIP, options=run_options("auto", weights))
    plan = choose_backend(request).plan
    return Shape(width=plan.tile[0], height=plan.tile[1], window=plan.sampling.window)


def build(folder: Path, weights: Path | None, shape: Shape) -> Path:
    """A bundle for the clip's shape, and for the sizes at which evaluations are timed."""
    request = make_request(
        preset="nano",
        weights=weights,
        sizes=[(shape.width, shape.height), *SIZES],
        windows=[shape.window],
        builder="onnx",
    )
    build_bundle(request, folder / "bundle")
    return folder / "bundle"


def open_models(weights: Path | None, bundle: Bundle, shape: Shape) -> dict[str, Model]:
    """The same network in every way."""
    path, runs = find_weights(NANO, weights), open_runs(bundle, shape, "cpu")
    static = StaticDenoiser(NANO.model, sizes(NANO.model, shape), runs)
    return {
        name: static
        if is_onnx
        else load_model(path, NANO, dtype=choose_dtype(dtype, "cpu"), device="cpu")[0]
        for name, (dtype, is_onnx) in WAYS.items()
    }


def random_inputs(shape: Shape) -> dict[str, Tensor]:
    """Of an evaluation, at a timestep in the middle."""
    letters = sizes(NANO.model, shape)
    given = sample_inputs(NANO.model, letters["f"], letters["h"], letters["w"])
    generator = torch.Generator().manual_seed(0)
    for name in ("latents", "hint", "neighbours"):
        given[name].normal_(std=0.3, generator=generator)
    return {**given, "timestep": torch.full((1,), 500), "noise_level": torch.zeros(1)}


@torch.inference_mode()
def evaluate(model: Model, given: Mapping[str, Tensor]) -> Tensor:
    """`prepare` and one step."""
    conditions = {k: x for k, x in given.items() if k not in ("latents", "timestep")}
    return model.step(given["latents"], given["timestep"], model.prepare(**conditions))


def time_evaluations(weights: Path | None, bundle: Path, rounds: int) -> dict[str, Any]:
    """Of every way at every size, by the shape."""
    opened, found = open_bundle(bundle), {}
    [window] = {shape.window for shape in opened.manifest.shapes}
    for width, height in SIZES:
        shape = Shape(width=width, height=height, window=window)
        found[str(shape)] = time_models(
            open_models(weights, opened, shape), random_inputs(shape), rounds
        )
        print(
            f"{shape}: { ({name: told['median'] for name, told in found[str(shape)].items()}) } ms"
        )
    return found


def time_models(
    models: Mapping[str, Model], given: Mapping[str, Tensor], rounds: int
) -> dict[str, Any]:
    """Milliseconds, once a round, in turns; and how far each is from float32, which warms it up."""
    exact = evaluate(models["pytorch float32"], given)
    apart = {name: _apart(evaluate(model, given), exact) for name, model in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            taken[name].append(_milliseconds(partial(evaluate, model, given)))
    return {
        name: {"milliseconds": t, "median": statistics.median(t), "relative_l2": apart[name]}
        for name, t in taken.items()
    }


def _apart(made: Tensor, exact: Tensor) -> float:
    return float((made - exact).norm() / exact.norm())


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return round(1000 * (time.perf_counter() - start), 1)


def run(dtype: Dtype, weights: Path | None, bundle: Path | None, target: Path) -> dict[str, float]:
    """Seconds of the denoiser and in all, loading included."""
    options = run_options(dtype, weights if bundle is None else None)
    backend = choose_backend(Request(source=CLIP, options=options, bundle=bundle))
    report = pipeline.enhance(backend.plan, target, backend.open(), options)
    return {"denoise": report.seconds["denoise"], "all": sum(report.seconds.values())}


def compare(folder: Path, reference: Path) -> dict[str, float]:
    """PSNR of every picture."""
    names = sorted(path.name for path in reference.glob("*.png"))
    pairs = ([np.asarray(Image.open(place / n)) for place in (folder, reference)] for n in names)
    return mean_and_least(psnr(*pair) for pair in pairs)


def time_runs(weights: Path | None, bundle: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Every way once a round, in turns."""
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (dtype, is_onnx) in WAYS.items():
            target = folder / name.replace(" ", "_")
            seconds[name].append(run(dtype, weights, bundle if is_onnx else None, target))
            print(f"{name}: {seconds[name][-1]['denoise']:.1f} s")
    exact = folder / "pytorch_float32"
    return {n: _told(t, folder / n.replace(" ", "_"), exact) for n, t in seconds.items()}


def _told(taken: list[dict[str, float]], made: Path, exact: Path) -> dict[str, Any]:
    return {
        "denoise_seconds": [round(t["denoise"], 2) for t in taken],
        "median_denoise_seconds": round(statistics.median(t["denoise"] for t in taken), 2),
        "median_seconds": round(statistics.median(t["all"] for t in taken), 2),
        "psnr_to_float32": compare(made, exact),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--weights", type=Path, help="a checkpoint of NANO (default: its own)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    clip = probe(CLIP, folder_fps=Fraction(24))
    with tempfile.TemporaryDirectory() as name:
        folder, shape = Path(name), needed_shape(args.weights)
        bundle = build(folder, args.weights, shape)
        measured = {
            "evaluations": time_evaluations(args.weights, bundle, args.rounds),
            "shape": str(shape),
            "ways": time_runs(args.weights, bundle, folder, args.rounds),
        }
    result = {
        **describe_run("benchmarks.onnx_cpu"),
        "threads": args.threads,
        "clip": f"{clip.width}x{clip.height}, {clip.frames} frames, 4x and 2x",
        **measured,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
