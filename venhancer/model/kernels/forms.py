"""The forms of each layer; only this module decides which one is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from venhancer.model.kernels import plain
from venhancer.model.kernels.back_ends import NONE, BackEnds


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """One form of each layer; all forms have one interface and compute the same."""

    norm: Callable[[nn.GroupNorm, Tensor], Tensor]
    norm_silu: Callable[[nn.GroupNorm, Tensor], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    geglu: Callable[[Tensor], Tensor]
    add_norm: Callable[[Tensor, Tensor, nn.LayerNorm, int], tuple[Tensor, Tensor]]


PLAIN = Forms(
    norm=plain.norm,
    norm_silu=plain.norm_silu,
    attend=plain.attend,
    geglu=plain.geglu,
    add_norm=plain.add_norm,
)


class Fusable(nn.Module):
    """Module that calls layers through `forms`; kernels have no backward, so training is plain."""

    is_fused = False
    back_ends = NONE  # for its attention

    @property
    def forms(self) -> Forms:
        if not self.is_fused or torch.is_grad_enabled():
            return PLAIN
        from venhancer.model.kernels.fused import FUSED  # here, as it needs Triton

        return FUSED

    def fuse(self, is_fused: bool) -> None:
        self.is_fused = is_fused


def fuse(model: nn.Module, is_fused: bool = True, back_ends: BackEnds = NONE) -> None:
    """Switch every module of the model to kernels, or back to PyTorch's operators.

    back_ends: for attention that no kernel computes
    """
    for module in model.modules():
        if isinstance(module, Fusable):
            module.fuse(is_fused)
            module.back_ends = back_ends
