"""Which form of its layers a module takes: decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from venhancer.model.kernels import plain
from venhancer.model.kernels.back_ends import NONE, BackEnds


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """One form of each layer; all forms are called alike and compute the same."""

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
    """A module that calls layers by `forms`; kernels have no backward, so training is plain."""

    is_fused = False
    back_ends = NONE  # of its attention

    @property
    def forms(self) -> Forms:
        if not self.is_fused or torch.is_grad_enabled():
            return PLAIN
        from venhancer.model.kernels.fused import FUSED  # late: it needs Triton

        return FUSED

    def fuse(self, is_fused: bool) -> None:
        self.is_fused = is_fused


def fuse(model: nn.Module, is_fused: bool = True, back_ends: BackEnds = NONE) -> None:
    """Let every module of the model take kernels from now on, or PyTorch's operators again.

    back_ends: of attention that no kernel computes
    """
    for module in model.modules():
        if isinstance(module, Fusable):
            module.fuse(is_fused)
            module.back_ends = back_ends
