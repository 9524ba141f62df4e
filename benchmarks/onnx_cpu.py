"""NANO on a CPU: PyTorch against ONNX Runtime, file to file, run in turns on the sample clip.

Which is faster is the default of `make demo`; how far the frames are apart is in the result too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.frame_parity import mean_and_least, psnr
from benchmarks.machine import ROOT, describe_run
from venhancer import Options, pipeline
from venhancer.contract import Shape
from venhancer.options import Dtype
from venhancer.video import probe
from venhancer_export.bundle_writer import build_bundle
from venhancer_export.request import make_request
from venhancer_rt.backends import Request, choose_backend

CLIP = ROOT / "assets" / "butterfly.mp4"
WAYS: dict[str, tuple[Dtype, bool]] = {  # precision, by ONNX Runtime
    "pytorch auto": ("auto", False),
    "pytorch float32": ("float32", False),
    "onnxruntime float32": ("auto", True),
}


def needed_shape() -> Shape:
    """The one shape that the default plan takes for the sample clip."""
    plan = choose_backend(Request(source=CLIP, options=Options(scale=4.0, interpolate=2))).plan
    stride, sampling = plan.preset.model.latent_stride, plan.sampling
    return Shape(
        width=len(sampling.columns[0]) * stride,
        height=len(sampling.rows[0]) * stride,
        window=sampling.window,
    )


def run(dtype: Dtype, bundle: Path | None, target: Path) -> tuple[float, float]:
    """Seconds of the denoiser and in all, loading included."""
    options = Options(scale=4.0, interpolate=2, dtype=dtype, device="cpu", overwrite=True)
    backend = choose_backend(Request(source=CLIP, options=options, bundle=bundle))
    report = pipeline.enhance(backend.plan, target, backend.open(), options)
    return report.seconds["denoise"], sum(report.seconds.values())


def compare(folder: Path, reference: Path) -> dict[str, float]:
    """PSNR of every picture."""
    names = sorted(path.name for path in reference.glob("*.png"))
    pairs = ([np.asarray(Image.open(place / n)) for place in (folder, reference)] for n in names)
    return mean_and_least(psnr(*pair) for pair in pairs)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Every way once a round, in turns."""
    shape = needed_shape()
    request = make_request(
        preset="nano",
        weights=None,
        sizes=[(shape.width, shape.height)],
        windows=[shape.window],
        builder="onnx",
    )
    bundle = folder / "bundle"
    build_bundle(request, bundle)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (dtype, is_onnx) in WAYS.items():
            target = folder / name.replace(" ", "_")
            seconds[name].append(run(dtype, bundle if is_onnx else None, target))
            print(f"{name}: {seconds[name][-1][0]:.1f} s")
    exact = folder / "pytorch_float32"
    return {
        "shape": str(shape),
        "ways": {n: _told(n, t, folder, exact) for n, t in seconds.items()},
    }


def _told(name: str, taken: list[tuple[float, float]], folder: Path, exact: Path) -> dict[str, Any]:
    return {
        "denoise_seconds": [round(denoise, 2) for denoise, _ in taken],
        "median_denoise_seconds": round(statistics.median(d for d, _ in taken), 2),
        "median_seconds": round(statistics.median(whole for _, whole in taken), 2),
        "psnr_to_float32": compare(folder / name.replace(" ", "_"), exact),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clip = probe(CLIP, folder_fps=Fraction(24))
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), args.rounds)
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
