"""The largest |Q K^T| of every attention layer, which float16 has to represent.

If half precision scales the products only after computing them, it overflows where a fused kernel
does not. Models of the SD 2.x v-prediction family are known for it; random weights do not show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from venhancer_export.onnx_graph.trace import scopes

BLOCK = 1 << 24  # products held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """Largest magnitudes of the attention products in one layer."""

    raw: float  # of Q K^T
    scaled: float  # as the softmax gets them


class AttentionRange(TorchFunctionMode):
    """Observer of every `scaled_dot_product_attention` while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = ""
        self.layers: dict[str, Logits] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            key = args[1] if len(args) > 1 else kwargs["key"]
            self._see(query, key, kwargs.get("scale"))
        return func(*args, **kwargs)

    def _see(self, query: Tensor, key: Tensor, scale: float | None) -> None:
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        raw = largest_product(query, key)
        known = self.layers.get(self.scope, Logits(raw=0.0, scaled=0.0))
        self.layers[self.scope] = Logits(
            raw=_larger(known.raw, raw), scaled=_larger(known.scaled, raw * factor)
        )


def _larger(a: float, b: float) -> float:
    """Return the larger number; NaN counts as infinite."""
    return math.inf if math.isnan(a) or math.isnan(b) else max(a, b)


@contextmanager
def watch_attention(module: nn.Module) -> Iterator[dict[str, Logits]]:
    """Record the largest products of every attention layer of `module`, by its dotted name."""
    watcher = AttentionRange()
    with scopes(watcher, module), watcher:
        yield watcher.layers


def largest_product(query: Tensor, key: Tensor) -> float:
    """Compute max |Q K^T| of queries ... l c and keys ... m c, by blocks of query rows."""
    query, key = query.flatten(0, -3), key.flatten(0, -3).transpose(1, 2)
    rows = max(1, BLOCK // (key.shape[0] * key.shape[2]))
    largest = [(part @ key).abs().amax() for part in query.split(rows, dim=1)]
    return float(torch.stack(largest).amax())
