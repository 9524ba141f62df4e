"""Engines that are really built, without a GPU: TINY and NANO for the A100 and the L4."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.golden.test_denoiser import golden_weight
from venhancer.bundle.manifest import check_files, read_manifest
from venhancer.config import NANO, TINY, Preset
from venhancer.contract import Shape
from venhancer.model.denoiser import make_denoiser
from venhancer.weights.checkpoint import save_checkpoint
from venhancer_export.cli import main

pytest.importorskip("tensorrt_rtx", reason="builds engines with TensorRT-RTX")
SHAPES = {
    "nano": Shape(width=128, height=64, window=3),
    "tiny": Shape(width=128, height=80, window=9),
}


def checkpoint(preset: Preset, folder: Path) -> list[str]:
    """Write weights made from their names: TINY has none of its own, and NANO's may change."""
    model = make_denoiser(preset.model).requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.copy_(golden_weight(name, list(parameter.shape)))
    save_checkpoint(folder / f"{preset.name}.safetensors", model, preset)
    return ["--weights", str(folder / f"{preset.name}.safetensors")]


@pytest.mark.parametrize(
    "preset", [NANO, pytest.param(TINY, marks=pytest.mark.slow)], ids=lambda preset: preset.name
)
def test_engines_for_the_a100_and_the_l4(
    preset: Preset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command makes a plan with weights for each network and GPU, and a complete manifest."""
    shape = SHAPES[preset.name]
    size = f"{shape.width}x{shape.height}"
    bundle = tmp_path / "bundle"
    words = ["build-engines", "--preset", preset.name, *checkpoint(preset, tmp_path)]
    words += ["--size", size, "--window", str(shape.window), "--builder", "tensorrt-rtx"]

    assert main([*words, "--gpu", "a100", "--gpu", "l4", "-o", str(bundle)]) == 0

    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    assert (manifest.builder, manifest.precision) == ("tensorrt-rtx", "float16")
    assert manifest.gpus == ("a100", "l4")
    expected = {"denoiser", "prepare"} | ({"text_keys"} if preset is TINY else set())
    assert {entry.network for entry in manifest.entries} == expected
    sizes = {file.path: file.size for file in manifest.files}
    for entry in manifest.entries:
        assert [engine.capability for engine in entry.engines] == ["8.0", "8.9"]
        assert all(sizes[engine.file] > 10_000 for engine in entry.engines)
    weights = sizes["onnx/denoiser.weights"]
    denoiser = manifest.find("denoiser", shape)
    assert all(sizes[engine.file] > 0.8 * weights for engine in denoiser.engines)
    assert "for a100, l4" in capsys.readouterr().out


@pytest.mark.gpu
def test_an_engine_for_this_gpu_loads(tmp_path: Path) -> None:
    """If TensorRT-RTX supports the card, its plan is loaded and compared with the contract."""
    if torch.cuda.get_device_capability() not in {(8, 0), (8, 6), (8, 9), (12, 0)}:
        pytest.skip("TensorRT-RTX builds for other cards")
    words = ["build-engines", *checkpoint(NANO, tmp_path), "--size", "128x64", "--gpu", "this"]

    assert main([*words, "--builder", "tensorrt-rtx", "-o", str(tmp_path / "bundle")]) == 0
