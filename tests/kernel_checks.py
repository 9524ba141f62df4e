"""Run as `python -m tests.kernel_checks DEVICE`: the Triton kernels against PyTorch in float64.

On a CPU with TRITON_INTERPRET=1, which has to be set before Triton is imported.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.triton_kernels import attend_short, norm_silu
from venhancer.model.attention import attend

TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3}  # relative L2
ATTENDED = ((5, 16, 2, 64), (3, 24, 1, 64), (7, 9, 2, 16), (2, 33, 1, 32), (3, 32, 5, 64))
NORMALISED = (((2, 64, 5, 7), 8), ((1, 320, 9, 20), 32), ((3, 96, 20, 20), 8))


def close(found: Tensor, wanted: Tensor) -> bool:
    away = (found.cpu().double() - wanted).norm() / wanted.norm()
    return bool(away <= TOLERANCES[found.dtype])


def check_attention(dtype: torch.dtype, device: str, shape: tuple[int, int, int, int]) -> None:
    """shape: sequences, frames, heads, channels of a head; several to a program, and a rest."""
    sequences, frames, heads, channels = shape
    q, k, v = (2 * torch.randn(sequences, frames, heads * channels) for _ in range(3))
    q, k, v = (x.to(device, dtype) for x in (q, k, v))
    wanted = attend(*(x.cpu().double() for x in (q, k, v)), channels)
    assert close(attend_short(q, k, v, channels), wanted), ("attention", dtype, shape)


def check_norm(dtype: torch.dtype, device: str, shape: tuple[int, ...], groups: int) -> None:
    """Values far from zero, whose variance a difference of squares would lose."""
    x = (3 * torch.randn(shape) + 20).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(groups, shape[1]).to(device, dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    found = norm_silu(norm, x)
    wanted = F.silu(norm.cpu().double()(x.cpu().double()))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert close(found, wanted), ("norm", dtype, shape)


@torch.no_grad()
def main(device: str) -> None:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # fills what nobody wrote with NaN
    for dtype in TOLERANCES:
        for attended in ATTENDED:
            check_attention(dtype, device, attended)
        for shape, groups in NORMALISED:
            check_norm(dtype, device, shape, groups)


if __name__ == "__main__":
    main(sys.argv[1])
