"""The largest attention products, and whether float16 can hold them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from venhancer.model.attention import Attention
from venhancer_export.onnx_graph import attention_range
from venhancer_export.onnx_graph.attention_range import Logits, largest_product, watch_attention
from venhancer_export.parity.report import Gates, judge_logits


class Two(nn.Module):
    """Two attention layers, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.calm = Attention(8, 8, 4)
        self.wild = Attention(8, 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.wild(self.calm(x))


def test_a_planted_large_logit_is_found() -> None:
    """The layer with large keys is named, and its products are beyond float16."""
    torch.manual_seed(0)
    module = Two()
    module.wild.key.weight.data *= 1e7

    with torch.no_grad(), watch_attention(module) as layers:
        module(torch.randn(2, 6, 8))

    assert set(layers) == {"calm", "wild"}
    assert judge_logits(layers["calm"], Gates()) == "pass"
    assert judge_logits(layers["wild"], Gates()) == "FAIL"


def test_what_is_found_is_the_largest_of_all_calls() -> None:
    """Raw and scaled products equal those of the plain matrix product, over every call."""
    torch.manual_seed(0)
    calls = [torch.randn(2, 2, 3, 5, 16) for _ in range(3)]

    with watch_attention(nn.Identity()) as layers:
        for query, key in calls:
            F.scaled_dot_product_attention(query, key, value=key)

    expected = max(float((q @ k.transpose(-1, -2)).abs().max()) for q, k in calls)
    assert layers[""].raw == pytest.approx(expected)
    assert layers[""].scaled == pytest.approx(expected / 4)


@pytest.mark.parametrize("block", [1, 100, 1 << 24])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest product is the same for any number of rows at a time."""
    monkeypatch.setattr(attention_range, "BLOCK", block)
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 9, 4)

    found = largest_product(query, key)

    assert found == pytest.approx(float((query @ key.transpose(-1, -2)).abs().max()))


@pytest.mark.parametrize(
    ("raw", "scaled", "verdict"),
    [
        (60000.0, 7500.0, "pass"),
        (70000.0, 8750.0, "warn"),
        (600000.0, 75000.0, "FAIL"),
        (math.inf, math.inf, "FAIL"),
    ],
)
def test_scaled_products_must_fit(raw: float, scaled: float, verdict: str) -> None:
    """Products that only the scale brings into float16's range give a warning; larger ones fail."""
    assert judge_logits(Logits(raw=raw, scaled=scaled), Gates()) == verdict


def test_what_is_not_a_number_is_too_large() -> None:
    """A layer whose products are NaN fails."""
    query = torch.full((1, 1, 2, 4), math.nan)

    with watch_attention(nn.Identity()) as layers:
        F.scaled_dot_product_attention(query, query, query)

    assert judge_logits(layers[""], Gates()) == "FAIL"
