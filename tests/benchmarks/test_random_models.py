"""Random weights, generated in several processes."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.random_models import random_model, write_checkpoint
from tests.support.models import SMALL_UNET
from venhancer.weights.checkpoint import load_model


def test_random_weights_are_the_same_in_every_process(tmp_path: Path) -> None:
    """On the device or written to a file, in any precision, they are the same float16 numbers."""
    made = random_model(SMALL_UNET, torch.float32, "cpu").state_dict()
    write_checkpoint(tmp_path / "random.safetensors", SMALL_UNET, seed=0)
    read = load_model(tmp_path / "random.safetensors", SMALL_UNET)[0].state_dict()
    half = random_model(SMALL_UNET, torch.bfloat16, "cpu").state_dict()

    assert made.keys() == read.keys() == half.keys()
    for name, weight in made.items():
        assert torch.equal(weight, read[name])
        assert torch.equal(weight.to(half[name].dtype), half[name])
