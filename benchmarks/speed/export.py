"""Seconds and memory from a checkpoint to a bundle; random weights if none are given.

Each stage runs in a process of its own, started by a small one, so that its peak memory is its own.
`--torch-onnx` also exports the denoiser with torch.onnx (needs onnxscript), for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import ROOT, describe_run, parse_size
from benchmarks.random_models import write_checkpoint, write_companions
from venhancer.config import PRESETS, RELEASED, Preset
from venhancer.contract import Shape, sizes
from venhancer.model.denoiser import make_denoiser
from venhancer.planning.cost import sample_inputs


def stage(models: Path, *options: str) -> dict[str, Any]:
    """Run this module again, as a process that prints its measurements."""
    command = [sys.executable, "-m", "benchmarks.speed.export", *options]
    found = {"VENHANCER_VAE": models, "VENHANCER_TEXT_ENCODER": models}
    environment = {**os.environ, **{name: str(path) for name, path in found.items()}}
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": round(time.perf_counter() - start, 1), **measured}


def build(args: argparse.Namespace) -> dict[str, Any]:
    """Build the bundle, in this process."""
    from venhancer_export.bundle_writer import build_bundle
    from venhancer_export.request import make_request

    request = make_request(
        preset=args.preset,
        weights=args.weights,
        sizes=[args.size],
        windows=[args.window],
        gpus=args.gpu,
        builder=args.builder,
        precision="float16",
    )
    manifest = build_bundle(request, args.bundle, say=lambda line: print(line, file=sys.stderr))
    return {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "builder": f"{manifest.builder} {manifest.builder_version}".strip(),
        "bundle_bytes": sum(file.size for file in manifest.files),
        "plans": {file.path: file.size for file in manifest.files if file.path.endswith("plan")},
        "networks": [
            {
                "name": entry.network,
                "nodes": sum(entry.operators.values()),
                "transposes": entry.operators.get("Transpose", 0),
                "engine_seconds": {engine.gpu: engine.seconds for engine in entry.engines},
            }
            for entry in manifest.entries
        ],
    }


class Whole(nn.Module):
    """The denoiser with positional inputs, as torch.onnx requires."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.denoiser = make_denoiser(preset.model)
        self.names = list(sample_inputs(preset.model, 2, 10, 8))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.denoiser(**dict(zip(self.names, inputs, strict=True)))


def by_torch_onnx(args: argparse.Namespace) -> dict[str, Any]:
    """Export the same network at the same shape with torch.onnx."""
    preset = PRESETS[args.preset]
    letters = sizes(
        preset.model, Shape(width=args.size[0], height=args.size[1], window=args.window)
    )
    inputs = sample_inputs(preset.model, letters["f"], letters["h"], letters["w"])
    network = Whole(preset).eval().requires_grad_(False).half()
    given = tuple(x.half() if x.is_floating_point() else x for x in inputs.values())
    start = time.perf_counter()
    program = torch.onnx.export(network, given, dynamo=True, opset_version=23, verbose=False)
    seconds = time.perf_counter() - start
    assert program is not None
    counts = Counter(node.op_type for node in program.model.graph)
    return {
        "export_seconds": round(seconds, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "nodes": sum(counts.values()),
        "transposes": counts["Transpose"],
    }


def random_weights(args: argparse.Namespace) -> dict[str, Any]:
    """Write a checkpoint, and the networks round it, in `args.bundle`."""
    preset = PRESETS[args.preset]
    write_checkpoint(args.bundle / "random.safetensors", preset)
    if preset is RELEASED:
        write_companions(args.bundle)
    return {}


STAGES = {"build": build, "torch-onnx": by_torch_onnx, "weights": random_weights}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="released", choices=list(PRESETS))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=parse_size, default=(1280, 720))
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--gpu", action="append", default=[])
    parser.add_argument("--builder", default="auto")
    parser.add_argument("--torch-onnx", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    return parser


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure ONNX alone, then the engines in addition, then torch.onnx; all files in `folder`."""
    preset, size = PRESETS[args.preset], "x".join(map(str, args.size))
    what = ["--preset", preset.name, "--size", size, "--window", str(args.window)]
    result: dict[str, Any] = {"preset": preset.name, "shape": f"{size}x{args.window}"}
    result["weights"] = args.weights.name if args.weights else "random"
    weights = args.weights or folder / "random.safetensors"
    if not args.weights:
        stage(folder, "--stage", "weights", "--bundle", str(folder), *what)
    build = ["--stage", "build", "--weights", str(weights), *what]
    result["onnx"] = stage(folder, *build, "--builder", "onnx", "--bundle", f"{folder}/onnx")
    if args.gpu:
        build += [word for gpu in args.gpu for word in ("--gpu", gpu)]
        build += ["--builder", args.builder, "--bundle", f"{folder}/engines"]
        result["engines"] = stage(folder, *build)
    if args.torch_onnx:
        result["torch_onnx"] = stage(folder, "--stage", "torch-onnx", *what)
    return result


def main() -> None:
    args = build_parser().parse_args()
    if args.stage:
        print(json.dumps(STAGES[args.stage](args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = {**describe_run("benchmarks.speed.export"), **measure(args, Path(folder))}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
