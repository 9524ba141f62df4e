"""NANO's flat body through a bundle: equal frames, neighbours included; and its refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.runtime.test_bundle import by_onnx, by_pytorch, psnr
from tests.support.bundles import Built, flat_bundle
from tests.support.clips import write_clip
from venhancer.motion.neighbours import Aligner
from venhancer.options import Options
from venhancer.training import __main__ as training
from venhancer_rt.bundle_reader import open_bundle
from venhancer_rt.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return flat_bundle(tmp_path_factory.mktemp("flat"), sizes=[(96, 64)], windows=[3])


@pytest.mark.parametrize(
    ("frames", "size", "expected"),
    [(5, (48, 32), (5, 64, 96)), (2, (40, 22), (2, 44, 80)), (4, (74, 40), (4, 80, 148))],
    ids=["it fits", "a short clip of smaller frames", "tiles"],
)
def test_frames_are_those_of_pytorch(
    frames: int, size: tuple[int, int], expected: tuple[int, ...], built: Built, tmp_path: Path
) -> None:
    """Windows of three key frames, each with its aligned neighbours, run by ONNX Runtime."""
    clip, options = write_clip(tmp_path / "in.mp4", frames, *size), Options(scale=2.0)

    out = by_onnx(clip, built, options)

    assert out.shape == (*expected, 3)
    reference = by_pytorch(clip, built, options)
    assert abs(out - reference).max() <= 1
    assert psnr(out, reference) >= 60


def test_the_bundle_is_shown_the_neighbours(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the neighbours' channels, the bundle's frames are others."""
    clip, options = write_clip(tmp_path / "in.mp4", 5), Options(scale=2.0)
    with_them = by_onnx(clip, built, options)
    hint = Aligner.hint

    def nothing(aligner: Aligner, number: int) -> Tensor:
        return torch.zeros_like(hint(aligner, number))

    monkeypatch.setattr(Aligner, "hint", nothing)
    without = by_onnx(clip, built, Options(scale=2.0, overwrite=True))

    assert np.abs(with_them - without).mean() > 0.1


def test_the_manifest_names_the_neighbours(built: Built) -> None:
    """Neighbours are an input of `prepare`, of the size that a run gives."""
    bundle = open_bundle(built.folder)
    [shape] = bundle.manifest.shapes

    ports = {port.name: port.shape for port in bundle.entries(shape)["prepare"].inputs}

    assert ports["neighbours"] == (1, 52, 3, 16, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reuse", "2"], "reuse=2: the model of preset 'nano' has one level, and no coarse"),
        (["--mode", "fast"], "mode=fast: preset 'nano' has no shortcuts, it takes steps=1 anyway"),
    ],
)
def test_shortcuts_that_it_does_not_have(
    options: list[str], message: str, built: Built, tmp_path: Path, capsys: Capture
) -> None:
    """Missing shortcuts are refused by name, in one line, before anything is written."""
    clip = write_clip(tmp_path / "in.mp4", 2)

    assert main(["enhance", str(clip), "--weights", str(built.weights), *options]) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_reuse_of_one_is_what_it_does(built: Built, tmp_path: Path) -> None:
    """Every step already computes everything, so `reuse` of one changes nothing."""
    clip = write_clip(tmp_path / "in.mp4", 2)

    assert main(["plan", str(clip), "--weights", str(built.weights), "--reuse", "1"]) == 0


def test_a_teacher_of_one_step_is_refused(built: Built, tmp_path: Path, capsys: Capture) -> None:
    """No student can use fewer steps; the error comes before data is opened."""
    words = ["--data", str(tmp_path), "--teacher", str(built.weights), "-o", str(tmp_path / "run")]

    assert training.main(words) == 2

    assert "runs of preset 'nano' take one step already" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
