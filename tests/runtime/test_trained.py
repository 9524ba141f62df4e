"""A controller trained round a frozen prior is exported and run unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.bundles import (
    build,
    point_to,
    small_text_encoder,
    small_vae,
    text_checkpoint,
    text_preset,
)
from tests.support.clips import write_clip
from tests.support.training_parts import write_media
from venhancer import Options, config, enhance
from venhancer.training import __main__ as training
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.weights.checkpoint import load_model
from venhancer.weights.released_names import CONTROLLER, to_released
from venhancer_rt.cli import main as runtime

SETTINGS = ("frames=5", "crop=(64, 48)", "batch=2", "clips_a_decode=2", "learning_rate=0.1")


def frames_of(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.stack(list(read_frames(probe(path)))).astype(np.float64)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train with `venhancer-train --preset released --prior ...`, with a real codec and encoder."""
    from benchmarks.random_models import write_tokenizer

    monkeypatch.setitem(config.PRESETS, "released", text_preset())  # type: ignore[arg-type]
    model, _ = load_model(text_checkpoint(tmp_path / "text.safetensors"), text_preset())
    small_vae().save_pretrained(tmp_path / "vae")
    small_text_encoder().save_pretrained(tmp_path / "text_encoder")
    write_tokenizer(tmp_path / "tokenizer")
    point_to(tmp_path, monkeypatch)
    released = to_released(model.state_dict(), model.config.unet)
    prior = {k: v.clone() for k, v in released.items() if not k.startswith(CONTROLLER)}
    torch.save(prior, tmp_path / "prior.pt")
    data, run = write_media(tmp_path / "media"), tmp_path / "run"
    given = ["--preset", "released", "--prior", str(tmp_path / "prior.pt"), "--data", str(data)]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]

    code = training.main([*given, *settings, "-o", str(run), "--steps", "2", "--workers", "0"])

    assert code == 0
    return run / "model.safetensors"


@pytest.mark.filterwarnings("ignore:the prompt is too long")  # here a letter is a token
def test_trained_weights_run_everywhere(trained: Path, tmp_path: Path) -> None:
    """PyTorch, a bundle of ONNX files and the released layout give equal frames."""
    clip = write_clip(tmp_path / "in.mp4", 5, 32, 24)
    options = ["--interpolate", "2", "--prompt", "a", "--guidance", "2"]
    enhance(
        clip,
        tmp_path / "torch",
        Options(interpolate=2, prompt="a", guidance=2, weights=trained, dtype="float32"),
    )
    built = build(tmp_path, trained, [(64, 48)])
    released = tmp_path / "released.safetensors"
    assert training.main(["convert", str(trained), "-o", str(released)]) == 0

    bundle = ["--bundle", str(built.folder), "-o", str(tmp_path / "onnx")]
    layout = [
        "--preset",
        "released",
        "--weights",
        str(released),
        "--dtype",
        "float32",
        "-o",
        str(tmp_path / "layout"),
    ]
    assert runtime(["enhance", str(clip), *options, *bundle]) == 0
    assert runtime(["enhance", str(clip), *options, *layout]) == 0

    expected = frames_of(tmp_path / "torch")
    assert expected.shape == (9, 48, 64, 3)
    assert abs(frames_of(tmp_path / "onnx") - expected).max() <= 1
    assert abs(frames_of(tmp_path / "layout") - expected).max() <= 1
