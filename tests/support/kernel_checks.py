"""Run as `python -m tests.support.kernel_checks DEVICE`: Triton against PyTorch in float64.

On a CPU it needs TRITON_INTERPRET=1, which must be set before Triton is imported.
"""

from __future__ import annotations

import copy
import dataclasses
import sys

import torch
from torch import Tensor, nn

from tests.support.training_parts import small_v_preset
from venhancer.device import compute_exactly
from venhancer.model.kernels import plain
from venhancer.model.kernels.forms import PLAIN, Fusable, fuse
from venhancer.model.kernels.fused import attention, feed_forward, group_norm, residual
from venhancer.model.unet import Stage

TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # relative L2
ATTENDED = ((5, 16, 2, 64), (3, 24, 1, 64), (7, 9, 2, 16), (2, 33, 1, 32), (3, 32, 5, 64))
NORMALISED = (((2, 64, 5, 7), 4), ((1, 80, 9, 20), 8), ((1, 96, 20, 20), 2))
GATED = ((2, 5, 96), (3, 7, 320))  # channels after the gate
ADDED = ((4, 5, 48, 2), (2, 3, 320, 1), (2, 3, 1280, 2))  # images, tokens, channels, frames


def check(name: str, found: Tensor, wanted: Tensor) -> None:
    away = (found.cpu().double() - wanted).norm() / wanted.norm()
    assert found.shape == wanted.shape, name
    assert away <= TOLERANCES[found.dtype], (name, found.dtype, found.shape, float(away))


def exact(*given: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.cpu().double() for x in given)


def affine(layer: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """Set a norm's factors and summands to other values than one and zero."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.to(device, dtype)


def check_attention(dtype: torch.dtype, device: str) -> None:
    """Check several sequences per program and a rest, and queries beside keys and values."""
    for sequences, frames, heads, channels in ATTENDED:
        joined = 2 * torch.randn(sequences, frames, 3 * heads * channels)
        q, k, v = joined.to(device, dtype).chunk(3, dim=-1)
        wanted = plain.attend(*exact(q, k, v), channels)
        assert attention.is_short(q, k, channels)
        check("attention", attention.attend(q, k, v, channels), wanted)


def check_norm(dtype: torch.dtype, device: str) -> None:
    """Check values far from zero, whose variance a difference of squares would lose."""
    for shape, groups in NORMALISED:
        x = (3 * torch.randn(shape) + 20).to(device, dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        layer = affine(nn.GroupNorm(groups, shape[1]), device, dtype)
        in_double = copy.deepcopy(layer).cpu().double()
        for name in ("norm", "norm_silu"):
            found = getattr(group_norm, name)(layer, x)
            assert found.is_contiguous(memory_format=torch.channels_last)
            check(name, found, getattr(plain, name)(in_double, *exact(x)))


def check_geglu(dtype: torch.dtype, device: str) -> None:
    for *rows, width in GATED:
        x = (2 * torch.randn(*rows, 2 * width)).to(device, dtype)
        check("geglu", feed_forward.geglu(x), plain.geglu(*exact(x)))


def check_add_norm(dtype: torch.dtype, device: str) -> None:
    """Check that the norm uses the sum as stored, so the sum equals PyTorch's bit for bit."""
    for images, tokens, width, frames in ADDED:
        x, y = (torch.randn(images, tokens, width).to(device, dtype) + 5 for _ in range(2))
        layer = affine(nn.LayerNorm(width), device, dtype)
        in_double = copy.deepcopy(layer).cpu().double()
        total, normal = residual.add_norm(x, y, layer, frames)
        assert torch.equal(total, plain.add_norm(x, y, layer, frames)[0])
        check("add_norm", normal, in_double(*exact(total)))


def small_stage() -> Stage:
    """Make a level with every kind of layer, and few groups, which the kernel takes in sequence."""
    unet = dataclasses.replace(small_v_preset().model.unet, norm_groups=2)
    stage = Stage(32, 64, unet, spatial=True, temporal=True).eval()
    for parameter in stage.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        nn.init.normal_(parameter, std=fan_in**-0.5)
    return stage


def check_stage(device: str) -> None:
    """Check that a stage gives the same with all layers fused, for two branches."""
    stage, branches, frames = small_stage().to(device), 2, 3
    x = torch.randn(branches * frames, 32, 6, 5).contiguous(memory_format=torch.channels_last)
    embedding, text = torch.randn(branches * frames, 128), torch.randn(2, branches, 7, 64)
    x, embedding, text = (given.to(device) for given in (x, embedding, text))
    wanted = stage(x, embedding, iter([(text[0], text[1])]), frames)
    fuse(stage)
    assert all(m.forms is not PLAIN for m in stage.modules() if isinstance(m, Fusable))
    check("stage", stage(x, embedding, iter([(text[0], text[1])]), frames), *exact(wanted))
    with torch.enable_grad():
        assert stage.resblock.forms is PLAIN


@torch.no_grad()
def main(device: str) -> None:
    torch.manual_seed(0)
    compute_exactly(torch.float32)
    torch.use_deterministic_algorithms(True)  # fills unwritten memory with NaN
    check_stage(device)
    for dtype in TOLERANCES:
        if dtype == torch.bfloat16 and device == "cpu":
            continue  # the interpreter multiplies bfloat16 bits as integers
        for run in (check_attention, check_norm, check_geglu, check_add_norm):
            run(dtype, device)


if __name__ == "__main__":
    main(sys.argv[1])
