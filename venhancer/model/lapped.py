"""NANO's codec: a fixed, orthonormal lapped transform, 4x4 pixels x 3 colours -> 48 channels.

It is a block DCT after a filter that rotates the pixels of neighbouring blocks into each other
(time-domain pre-filtering, Tran, Liang and Tu 2003, "Lapped transform via time-domain pre- and
post-filtering"). Its basis functions overlap and fade out, so an error in one coefficient leaves no
block edge. It is lossless: decoding is the transpose of encoding.
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
MEANS = 3  # the first channels, which hold the mean colour of a block
SPREADS = 4.0, 0.5  # rough spreads of the means and of all other latents, at a scale of 2


def _dct(size: int, quarter: float) -> Tensor:
    """Make the orthonormal DCT-II (quarter=0) or DCT-IV (quarter=0.5): rows are frequencies."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size) + 0.5
    matrix = math.sqrt(2 / size) * torch.cos(math.pi / size * (k + quarter) * n)
    if quarter == 0:
        matrix[0] /= math.sqrt(2)
    return matrix


def _rotation() -> Tensor:
    """Make the orthonormal pre-filter across a block border, 2 samples on each side: (4, 4)."""
    flip = torch.eye(HALF, dtype=torch.float64).flip(0)
    inner = flip @ _dct(HALF, 0).T @ _dct(HALF, 0.5) @ flip
    unit = torch.eye(HALF, dtype=torch.float64)
    butterfly = torch.cat([torch.cat([unit, flip], 1), torch.cat([flip, -unit], 1)])
    return butterfly @ torch.block_diag(unit, inner) @ butterfly / 2


def _kernel(scale: float) -> Tensor:
    """Build each latent's filter over a block and HALF pixels around it: (48, 3, 8, 8)."""
    rotation = _rotation()
    rotated = torch.block_diag(rotation, rotation)[HALF:-HALF]  # a block from the samples it covers
    filters = _dct(BLOCK, 0) @ rotated
    colours = torch.eye(3, dtype=torch.float64)
    kernel = torch.einsum("iy,jx,cd->ijcdyx", filters, filters, colours) * scale
    return kernel.reshape(BLOCK * BLOCK * 3, 3, 2 * BLOCK, 2 * BLOCK).float()


def _kernel_on(device: torch.device, scale: float) -> Tensor:
    """Get the kernel on a device; cached for CUDA, where a copy from the host would wait."""
    return _kernel_on_card(device, scale) if device.type == "cuda" else _kernel(scale).to(device)


@cache
def _kernel_on_card(device: torch.device, scale: float) -> Tensor:
    with torch.inference_mode(False):  # so that training can use it too
        return _kernel(scale).to(device)


def _mirrored(x: Tensor) -> Tensor:
    """Pad by HALF mirrored pixels on every side; the rotation leaves symmetric borders as is."""
    x = torch.cat([x[..., :HALF].flip(-1), x, x[..., -HALF:].flip(-1)], dim=-1)
    return torch.cat([x[..., :HALF, :].flip(-2), x, x[..., -HALF:, :].flip(-2)], dim=-2)


def _folded(x: Tensor) -> Tensor:
    """Apply the transpose of `_mirrored`: add the padding back inside; changes `x`."""
    for _ in range(2):
        x[..., HALF:BLOCK] += x[..., :HALF].flip(-1)
        x[..., -BLOCK:-HALF] += x[..., -HALF:].flip(-1)
        x = x[..., HALF:-HALF].mT
    return x


def _exact() -> AbstractContextManager[None]:
    """Disable TF32, so that convolutions on a GPU are in full float32."""
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)


def encode(frames: Tensor, scale: float) -> Tensor:
    """Encode frames (f 3 H W) in [-1, 1], H and W multiples of 4 -> latents (f 48 H/4 W/4)."""
    with _exact():
        kernel = _kernel_on(frames.device, scale)
        return F.conv2d(_mirrored(frames.float()), kernel, stride=BLOCK)


def decode(latents: Tensor, scale: float) -> Tensor:
    """Decode latents (f 48 h w) -> frames (f 3 4h 4w)."""
    kernel = F.pixel_unshuffle(_kernel_on(latents.device, 1 / scale), BLOCK)
    with _exact():
        blocks = F.conv_transpose2d(latents.float(), kernel)
    return _folded(F.pixel_shuffle(blocks, BLOCK))
