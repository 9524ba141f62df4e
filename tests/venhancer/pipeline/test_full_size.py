"""The released model at its full size, with random weights: a film from file to file on a CPU."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.random_models import random_state, write_tokenizer
from tests.support.clips import read_all, write_clip
from tests.support.paths import ROOT
from venhancer.config import RELEASED
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.encoders.text_encoder import ClipTextEncoder, build_network
from venhancer.encoders.tokenizer import load_tokenizer
from venhancer.model.denoiser import make_denoiser
from venhancer.options import Options
from venhancer.pipeline.networks import Networks
from venhancer.pipeline.run import Report, enhance
from venhancer.planning.activations import autoencoder, text_tower
from venhancer.planning.plan import Plan, make_plan
from venhancer.video.probe import probe
from venhancer.weights.checkpoint import assign

MOST_MEMORY = 20e9  # bytes
DTYPE = torch.bfloat16
OPTIONS = Options(
    preset="released",
    scale=1,
    interpolate=2,
    prompt="a cat",
    solver="normal",
    steps=2,
    device="cpu",
    dtype="bfloat16",
)


class Watched(Networks):
    """Records whether all numbers between the networks are finite."""

    is_finite = True

    def decode(self, plan: Plan, latents: Tensor) -> Tensor:
        return self.noted(super().decode(plan, self.noted(latents)))

    def noted(self, x: Tensor) -> Tensor:
        self.is_finite &= bool(x.isfinite().all())
        return x


def build_networks(folder: Path) -> Watched:
    torch.manual_seed(0)
    config = RELEASED.model
    model = assign(
        config, random_state(lambda: make_denoiser(config), DTYPE), dtype=DTYPE, device="cpu"
    )
    write_tokenizer(folder / "tokenizer")
    text = build_network(random_state(text_tower, DTYPE))
    vae = autoencoder().to(DTYPE).eval().requires_grad_(False)
    return Watched(
        model.eval().requires_grad_(False),
        AutoencoderCodec(vae),
        ClipTextEncoder(text, load_tokenizer(folder)),
    )


def run(folder: Path) -> None:
    """Enhance folder/in.mp4 to folder/out.mp4 and write the measurements to folder/run.json."""
    start = time.perf_counter()
    plan = make_plan(probe(folder / "in.mp4"), RELEASED, OPTIONS)
    networks = build_networks(folder)
    loaded = time.perf_counter()
    report: Report = enhance(plan, folder / "out.mp4", networks, OPTIONS)
    measured = {
        "parameters": sum(p.numel() for p in networks.model.parameters()),
        "padded": [plan.geometry.padded_width, plan.geometry.padded_height],
        "evaluations": plan.evaluations,
        "is_finite": networks.is_finite,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": {"load": loaded - start, **report.seconds},
    }
    (folder / "run.json").write_text(json.dumps(measured))


@pytest.mark.slow
def test_the_released_size_runs_from_file_to_file(tmp_path: Path) -> None:
    """2 B parameters, text tower and VAE enhance a clip within 20 GB, all numbers finite."""
    for package in ("transformers", "diffusers"):
        pytest.importorskip(package, reason="the released model's networks are from there")
    write_clip(tmp_path / "in.mp4", 2, 64, 48)

    # a process of its own, so that the peak is this run's
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, check=True)
    measured = json.loads((tmp_path / "run.json").read_text())
    frames = read_all(tmp_path / "out.mp4")

    print(measured)  # noqa: T201
    assert measured["parameters"] == pytest.approx(2.045e9, rel=1e-3)
    assert measured["padded"] == [64, 80]
    assert measured["evaluations"] == 4
    assert measured["is_finite"]
    assert measured["peak_bytes"] < MOST_MEMORY
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * len(frames)
    assert len(frames) == 3
    assert all(frame.std() > 1 for frame in frames)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
