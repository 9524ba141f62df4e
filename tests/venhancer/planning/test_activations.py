"""Predicted memory: exact where it can be counted by hand, near the measured value elsewhere."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.memory.prediction import Case, measure, predict
from venhancer.config import NANO, RELEASED, TINY, ModelConfig, Preset
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.model.layers import GroupNorm
from venhancer.planning.activations import (
    LiveBytes,
    autoencoder,
    codec_bytes,
    codec_weight_bytes,
    denoiser_bytes,
    evaluate,
    peak_bytes,
    text_tower,
    text_weight_bytes,
)
from venhancer.planning.cost import sample_inputs

FLOAT = 4  # bytes


def on_meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def test_what_is_freed_no_longer_counts() -> None:
    """With two convolutions in a row, the peak holds the middle and the output, not the input."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 2, 1))
    x = on_meta(1, 3, 10, 10)

    assert peak_bytes(lambda: network(x)) == (8 + 16) * 100 * FLOAT


def test_what_is_kept_counts_until_it_is_freed() -> None:
    """A tensor counts in the peak while it is referenced, and no longer once it is freed."""
    x = on_meta(100)

    def work() -> Tensor:
        kept = x + 1
        out = (x * 2) * 3  # 2 x, then 6 x: with `kept` three of them
        del kept
        return out + 1

    assert peak_bytes(work) == 3 * 100 * FLOAT


def test_views_and_what_is_done_in_place_add_nothing() -> None:
    """Reshapes, slices and in-place arithmetic leave the count at the one tensor made."""
    x = on_meta(4, 100)

    def work() -> Tensor:
        made = x + 1
        made.mul_(2).relu_()
        made[1:3] += 1
        return made.view(100, 4).t().unsqueeze(0).expand(5, 4, 100)[:, :2]

    assert peak_bytes(work) == 400 * FLOAT
    assert peak_bytes(lambda: x.reshape(20, 20).t()) == 0
    assert peak_bytes(lambda: x.t().reshape(400)) == 400 * FLOAT  # a copy, so counted


def test_attention_makes_no_scores() -> None:
    """Attention of 5000 tokens costs its output only, in the kernels' layout: by tokens."""
    query = on_meta(1, 5000, 2, 8).transpose(1, 2)

    def work() -> Tensor:
        return F.scaled_dot_product_attention(query, query, query).transpose(1, 2).view(5000, 16)

    assert peak_bytes(work) == 5000 * 16 * FLOAT


@pytest.mark.parametrize("preset", [NANO, TINY], ids=lambda preset: preset.name)
def test_tensors_with_data_count_the_same(preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device gives some tensors other layouts than a CPU, and the peak is the same.

    Small frames are normalised like large ones here: the other implementation is for CPUs only.
    """
    monkeypatch.setattr(GroupNorm, "small", 0)
    model = preset.model
    frames, rows, columns = 3, 24 + model.unet.row_remainder, 24
    network: Denoiser = make_denoiser(model).eval()
    inputs = sample_inputs(model, frames, rows, columns)
    with torch.no_grad():
        text = network.prepare_text(inputs.pop("text", None))
        with LiveBytes() as count:
            out = evaluate(network, inputs, text)

    assert out.shape == inputs["latents"].shape
    assert count.peak == denoiser_bytes(
        model, torch.float32, branches=1, frames=frames, rows=rows, columns=columns
    )


def check_linear(model: ModelConfig, sizes: dict[str, int], larger: dict[str, int]) -> None:
    growth = math.prod(larger.values()) / math.prod(sizes.values())
    one = denoiser_bytes(model, torch.float16, **sizes)

    assert denoiser_bytes(model, torch.float16, **larger) == pytest.approx(growth * one, rel=1e-2)


@pytest.mark.parametrize("name", ["frames", "rows", "columns"])
def test_the_denoiser_is_linear_in_each_size(name: str) -> None:
    """Twice the frames, rows or columns take twice the memory, within one percent."""
    sizes = {"branches": 1, "frames": 9, "rows": 48, "columns": 80}

    check_linear(NANO.model, sizes, {**sizes, name: 2 * sizes[name]})


def test_the_released_model_at_720p() -> None:
    """16 frames of 1280x720, both branches, take 9.5 GB in float16, fewer rows in proportion.

    The scores of its spatial attention alone would take 66 GB.
    """
    sizes = {"branches": 2, "frames": 16, "rows": 90, "columns": 160}

    assert denoiser_bytes(RELEASED.model, torch.float16, **sizes) == pytest.approx(9.48e9, rel=0.01)
    check_linear(RELEASED.model, sizes, {**sizes, "rows": 42})


def test_the_codec_is_linear_in_its_pixels() -> None:
    """Three frames of 1280x720 decode in 4.2 GB of float16, nine times that of a ninth."""
    pytest.importorskip("diffusers", reason="the VAE is from there")
    whole = codec_bytes(torch.float16, frames=3, height=720, width=1280)
    part = codec_bytes(torch.float16, frames=1, height=240, width=1280)

    assert whole.decode == pytest.approx(4.25e9, rel=0.01)
    assert whole.encode < whole.decode
    assert whole == pytest.approx((9 * part.encode, 9 * part.decode), rel=1e-2)


def test_weights_of_the_companions() -> None:
    """The counted VAE and text tower are as large as the benchmarks' networks."""
    for package in ("diffusers", "transformers"):
        pytest.importorskip(package, reason="the networks are from there")
    with torch.device("meta"):
        networks = (autoencoder(), text_tower())
        vae, tower = (sum(p.numel() for p in network.parameters()) for network in networks)

    assert codec_weight_bytes(torch.float16) == 2 * vae == pytest.approx(167e6, rel=0.01)
    assert text_weight_bytes(torch.float16) == 2 * tower == pytest.approx(681e6, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux tells it")
def test_the_count_is_what_a_process_takes() -> None:
    """NANO's evaluation takes the predicted bytes, up to +10 %, with blocks on own pages."""
    case = Case("nano", "float32", 1, 5, 48, 48)
    taken = measure(case, "apart")["bytes"]

    assert 0.98 * predict(case) < taken < 1.1 * predict(case)
