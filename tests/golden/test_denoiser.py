"""The denoiser against the released implementation, on weights made from names."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from venhancer.config import RELEASED, TINY, Preset
from venhancer.diffusion.schedule import noise_schedule
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.weights.released_names import from_released

GOLDEN = Path(__file__).parent
OUTPUT = re.compile(r"t(\d+)_s(\d+)_th(\d+)")


def golden_weight(name: str, shape: list[int]) -> Tensor:
    """Make a weight by the recipe of golden/README.md."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    x = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        return torch.from_numpy(x / np.sqrt(np.float32(math.prod(shape[1:]))))
    x *= np.float32(0.1)
    return torch.from_numpy(x + np.float32(name.endswith("weight")))


def golden_denoiser(preset: Preset, layout: str) -> Denoiser:
    """Build the model on the meta device, so that the full one is never held twice."""
    shapes = json.loads((GOLDEN / "released_state_dict.json").read_text())[layout]
    released = {name: golden_weight(name, shape) for name, shape in shapes.items()}
    with torch.device("meta"):
        model = make_denoiser(preset.model)
    model.load_state_dict(from_released(released, preset.model.unet), assign=True)
    model.sigmas = noise_schedule().float()
    return model.eval()


def spread(hint: Tensor, mask: Tensor) -> Tensor:
    """Put key frames (b c k h w) at their places among all frames, zeros between."""
    dense = torch.zeros(*hint.shape[:2], mask.numel(), *hint.shape[3:])
    dense[:, :, (mask == 0).flatten()] = hint
    return dense


def errors(model: Denoiser, file: str) -> Iterator[tuple[str, float]]:
    """Yield (name, largest absolute error) of every output in a golden file."""
    arrays = {name: torch.from_numpy(a) for name, a in np.load(GOLDEN / file).items()}
    mask = arrays["mask"].reshape(1, -1)
    hint = spread(arrays["hint"], mask)
    for name, expected in arrays.items():
        if found := OUTPUT.fullmatch(name):
            timestep, scale, noise_level = (torch.tensor([int(v)]) for v in found.groups())
            with torch.inference_mode():
                out = model(
                    latents=arrays["x"],
                    timestep=timestep,
                    hint=hint,
                    is_key=(mask == 0).float(),
                    noise_level=noise_level,
                    scale=scale,
                    text=arrays["y"],
                )
            yield name, (out - expected).abs().max().item()


def test_tiny_denoiser_equals_the_release() -> None:
    """For every timestep, scale and noise level, the tiny model gives the released numbers."""
    found = dict(errors(golden_denoiser(TINY, "tiny"), "denoiser_tiny.npz"))

    assert found
    assert max(found.values()) <= 1e-4, found


@pytest.mark.slow
def test_full_denoiser_equals_the_release() -> None:
    """The 2 B model gives the released numbers; needs about 10 GB and two minutes."""
    found = dict(errors(golden_denoiser(RELEASED, "full"), "denoiser_full.npz"))

    assert found
    assert max(found.values()) <= 5e-4, found
