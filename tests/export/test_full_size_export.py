"""The released model at its full size, with random weights, from a checkpoint to ONNX."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from benchmarks.random_models import write_checkpoint, write_companions
from benchmarks.speed.export import stage
from venhancer.bundle.manifest import check_files, read_manifest
from venhancer.config import RELEASED
from venhancer.contract import Shape

MOST_MEMORY = 12e9  # bytes; measured 5.5e9, mostly the mapped files themselves
SHAPE = Shape(width=1280, height=720, window=16)


@pytest.mark.slow
def test_the_full_model_is_exported_in_little_memory(tmp_path: Path) -> None:
    """2 B parameters, VAE and text encoder: weights are streamed, graphs are valid and complete."""
    for package in ("transformers", "diffusers"):
        pytest.importorskip(package, reason="the released model's networks are from there")
    write_checkpoint(tmp_path / "random.safetensors", RELEASED)
    write_companions(tmp_path)
    bundle = tmp_path / "bundle"
    words = ["--stage", "build", "--preset", "released", "--window", str(SHAPE.window)]
    words += ["--weights", str(tmp_path / "random.safetensors"), "--builder", "onnx"]

    measured = stage(tmp_path, *words, "--size", "1280x720", "--bundle", str(bundle))

    print({key: measured[key] for key in ("seconds", "peak_bytes", "bundle_bytes")})  # noqa: T201
    assert measured["peak_bytes"] < MOST_MEMORY
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    weights = (bundle / "onnx" / "denoiser.weights").stat().st_size
    assert weights == pytest.approx(2 * 2.045e9, rel=0.02)
    for entry in manifest.entries:
        onnx.checker.check_model(str(bundle / entry.file))
    assert manifest.find("denoiser", SHAPE).operators["Attention"] == 96
