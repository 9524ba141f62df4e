"""Classifier-free guidance with its contrast put back (Lin et al. 2024, section 3.4)."""

from __future__ import annotations

from torch import Tensor

RESCALE = 0.2  # share of the conditional prediction's spread in the result (the release)


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Both b ...; the spread is taken over each sample (or window of it) -> b ..."""
    out = unconditional + guidance * (conditional - unconditional)
    axes = tuple(range(1, out.ndim))
    ratio = conditional.std(dim=axes, keepdim=True) / out.std(dim=axes, keepdim=True)
    return out * (RESCALE * ratio + 1 - RESCALE)
