"""NANO's codec: a fixed, orthonormal lapped transform, 4x4 pixels x 3 colours -> 48 channels.

A block DCT whose blocks are first rotated into their neighbours (time-domain pre-filtering, Tran,
Liang and Tu 2003, "Lapped transform via time-domain pre- and post-filtering"). Its basis functions
overlap and fade out, so an error in one coefficient leaves no block edge. Lossless: decoding is the
transpose of encoding.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 4
HALF = BLOCK // 2
MEANS = 3  # channels, the first, that hold the mean colour of a block
SPREADS = 4.0, 0.5  # of the means and of all other latents, about, at a scale of 2


def _dct(size: int, quarter: float) -> Tensor:
    """Orthonormal DCT-II (quarter=0) or DCT-IV (quarter=0.5): rows are frequencies."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size) + 0.5
    matrix = math.sqrt(2 / size) * torch.cos(math.pi / size * (k + quarter) * n)
    if quarter == 0:
        matrix[0] /= math.sqrt(2)
    return matrix


def _rotation() -> Tensor:
    """The orthonormal pre-filter across a block border: two samples on each side, (4, 4)."""
    flip = torch.eye(HALF, dtype=torch.float64).flip(0)
    inner = flip @ _dct(HALF, 0).T @ _dct(HALF, 0.5) @ flip
    unit = torch.eye(HALF, dtype=torch.float64)
    butterfly = torch.cat([torch.cat([unit, flip], 1), torch.cat([flip, -unit], 1)])
    return butterfly @ torch.block_diag(unit, inner) @ butterfly / 2


def _kernel(scale: float) -> Tensor:
    """Every latent as a filter over a block and HALF pixels round it: (48, 3, 8, 8)."""
    rotation = _rotation()
    rotated = torch.block_diag(rotation, rotation)[HALF:-HALF]  # a block, of the samples it sees
    filters = _dct(BLOCK, 0) @ rotated
    colours = torch.eye(3, dtype=torch.float64)
    kernel = torch.einsum("iy,jx,cd->ijcdyx", filters, filters, colours) * scale
    return kernel.reshape(BLOCK * BLOCK * 3, 3, 2 * BLOCK, 2 * BLOCK).float()


def _kernel_on(device: torch.device, scale: float) -> Tensor:
    """The kernel where it is needed; a card keeps it, since a copy from the host would wait."""
    return _kernel_on_card(device, scale) if device.type == "cuda" else _kernel(scale).to(device)


@cache
def _kernel_on_card(device: torch.device, scale: float) -> Tensor:
    with torch.inference_mode(False):  # training takes it too
        return _kernel(scale).to(device)


def _mirrored(x: Tensor) -> Tensor:
    """With HALF pixels more on every side; what is symmetric about a border is not rotated."""
    x = torch.cat([x[..., :HALF].flip(-1), x, x[..., -HALF:].flip(-1)], dim=-1)
    return torch.cat([x[..., :HALF, :].flip(-2), x, x[..., -HALF:, :].flip(-2)], dim=-2)


def _folded(x: Tensor) -> Tensor:
    """The transpose of `_mirrored`: what lies beyond the frame is added inside; changes `x`."""
    for _ in range(2):
        x[..., HALF:BLOCK] += x[..., :HALF].flip(-1)
        x[..., -BLOCK:-HALF] += x[..., -HALF:].flip(-1)
        x = x[..., HALF:-HALF].mT
    return x


def _exact() -> AbstractContextManager[None]:
    """On a GPU, convolutions in float32 with all its digits."""
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)


def encode(frames: Tensor, scale: float) -> Tensor:
    """Frames (f 3 H W) in [-1, 1], H and W multiples of 4 -> latents (f 48 H/4 W/4)."""
    with _exact():
        kernel = _kernel_on(frames.device, scale)
        return F.conv2d(_mirrored(frames.float()), kernel, stride=BLOCK)


def decode(latents: Tensor, scale: float) -> Tensor:
    """Latents (f 48 h w) -> frames (f 3 4h 4w)."""
    kernel = F.pixel_unshuffle(_kernel_on(latents.device, 1 / scale), BLOCK)
    with _exact():
        blocks = F.conv_transpose2d(latents.float(), kernel)
    return _folded(F.pixel_shuffle(blocks, BLOCK))
