"""LPIPS as a loss, on stand-in weights of the right shapes."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from venhancer.errors import WeightsError
from venhancer.training.perceptual import ALEXNET, VGG16, Backbone, Lpips

VGG_WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SHAPES = {
    "AlexNet_0": [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)],
    "VGG16_0": [(3, a, b) for a, b in itertools.pairwise(VGG_WIDTHS)],
}


def write_weights(path: Path, backbone: Backbone) -> Path:
    """Write random convolutions, and heads with equal weights, in the package's nesting."""
    rng = np.random.default_rng(0)
    layers = {
        f"Conv_{i}": {
            "kernel": rng.normal(0, (2 / (k * k * a)) ** 0.5, (k, k, a, b)).astype(np.float32),
            "bias": np.zeros(b, np.float32),
        }
        for i, (k, a, b) in enumerate(SHAPES[backbone.name])
    }
    taps = enumerate(SHAPES[backbone.name][tap][2] for tap in backbone.taps)
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.ones((1, 1, width, 1), np.float32)}}
        for i, width in taps
    }
    path.write_bytes(pickle.dumps({"params": {backbone.name: layers, **heads}}))
    return path


@pytest.mark.parametrize("backbone", [ALEXNET, VGG16], ids=["alexnet", "vgg16"])
def test_more_error_is_farther_away(backbone: Backbone, tmp_path: Path) -> None:
    """Equal frames are at distance 0; each frame of a batch has a distance of its own."""
    lpips = Lpips(write_weights(tmp_path / "weights.ckpt", backbone), backbone)
    true = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    error = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    made = true + error * torch.tensor([0.0, 0.1, 0.5])[:, None, None, None]

    near, middle, far = lpips(made, true).tolist()

    assert near == 0
    assert 0 < middle < far


def test_gradients_lead_to_the_truth(tmp_path: Path) -> None:
    """Only the output gets gradients, neither the weights nor the reference."""
    lpips = Lpips(write_weights(tmp_path / "weights.ckpt", VGG16), VGG16)
    true = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = torch.zeros_like(true).requires_grad_()

    before = lpips(made, true)
    before.sum().backward()

    assert made.grad is not None
    step = 1e-2 * made.grad / made.grad.norm()
    assert lpips(made - step, true).item() < before.item()
    assert all(parameter.grad is None for parameter in lpips.parameters())


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    """The error names the command that fetches them."""
    with pytest.raises(WeightsError, match="make data"):
        Lpips(tmp_path / "none.ckpt")
