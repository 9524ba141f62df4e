"""The presets that users and tests have, through the whole command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.test_denoiser import golden_denoiser
from tests.support.bundles import build
from venhancer.config import TINY
from venhancer.files import hash_file
from venhancer.weights.checkpoint import embedded_checkpoint, save_checkpoint
from venhancer_export.cli import main
from venhancer_export.parity import cases
from venhancer_export.parity import run as parity
from venhancer_export.parity.run import verify


def test_the_embedded_model_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NANO with its real weights in half precision: errors are far within the limits."""
    built = build(tmp_path, embedded_checkpoint("nano"), [(64, 64)], [3, 9], "float16")
    before = hash_file(built.folder / "bundle.json")

    assert main(["verify", str(built.folder)]) == 0

    shown = capsys.readouterr().out
    assert "ONNX float16" in shown
    assert "\npassed: " in shown
    assert "FAIL" not in shown
    assert (built.folder / "parity.md").is_file()
    assert hash_file(built.folder / "bundle.json") == before


@pytest.mark.slow
def test_the_golden_model_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TINY with weights made from names, guided, 14 steps of the release's solver, passes.

    It runs at the bundle's own shape and with fresh noise alone: other tests compare the rest.
    """
    monkeypatch.setattr(cases, "PROBES", ())
    monkeypatch.setattr(parity, "etas_of", lambda _: (1.0,))
    weights = tmp_path / "tiny.safetensors"
    save_checkpoint(weights, golden_denoiser(TINY, "tiny"), TINY)
    built = build(tmp_path, weights, [(64, 80)], precision="float16")

    found = verify(built.folder, built.weights, is_full=False, say=lambda _: None)

    assert found.passed, "\n".join(found.lines())
    frames = [row.found["psnr_min"] for row in found.rows if row.stage == "whole run"]
    assert min(frames) > 45
