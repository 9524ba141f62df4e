"""Classifier-free guidance with rescaled contrast (Lin et al. 2024, section 3.4)."""

from __future__ import annotations

from torch import Tensor

RESCALE = 0.2  # weight of the result with the conditional prediction's spread (the release)


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Combine both predictions, b ...; the spread is taken per sample (or window) -> b ..."""
    out = unconditional + guidance * (conditional - unconditional)
    axes = tuple(range(1, out.ndim))
    ratio = conditional.std(dim=axes, keepdim=True) / out.std(dim=axes, keepdim=True)
    return out * (RESCALE * ratio + 1 - RESCALE)
