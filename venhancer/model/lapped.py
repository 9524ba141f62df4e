"""NANO's codec: a fixed, orthonormal lapped transform, 4x4 pixels x 3 colours -> 48 channels.

A block DCT whose blocks are first rotated into their neighbours (time-domain pre-filtering, Tran,
Liang and Tu 2003, "Lapped transform via time-domain pre- and post-filtering"). Its basis functions
overlap and fade out, so an error in one coefficient leaves no block edge. Lossless: decoding is the
transpose of encoding.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
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


def _along_last(x: Tensor, inverse: bool) -> Tensor:
    """One dimension: (..., n) samples <-> (..., n) coefficients, grouped by block."""
    rotation, dct = (m.to(x) for m in (_rotation(), _dct(BLOCK, 0)))
    if inverse:
        return _rotate(_blocks(x, dct), rotation.T)
    return _blocks(_rotate(x, rotation), dct.T)


def _blocks(x: Tensor, matrix: Tensor) -> Tensor:
    return (x.unflatten(-1, (-1, BLOCK)) @ matrix).flatten(-2)


def _rotate(x: Tensor, matrix: Tensor) -> Tensor:
    """Apply `matrix` across every inner block border; the frame's own edges stay."""
    if x.shape[-1] == BLOCK:
        return x
    inner = _blocks(x[..., HALF:-HALF], matrix.T)
    return torch.cat([x[..., :HALF], inner, x[..., -HALF:]], dim=-1)


def _both_ways(x: Tensor, inverse: bool) -> Tensor:
    x = _along_last(x, inverse)
    return _along_last(x.transpose(-1, -2), inverse).transpose(-1, -2)


def encode(frames: Tensor, scale: float) -> Tensor:
    """Frames (f 3 H W) in [-1, 1], H and W multiples of 4 -> latents (f 48 H/4 W/4)."""
    coefficients = _both_ways(frames.float(), inverse=False) * scale
    return rearrange(coefficients, "f c (h i) (w j) -> f (i j c) h w", i=BLOCK, j=BLOCK)


def decode(latents: Tensor, scale: float) -> Tensor:
    """Latents (f 48 h w) -> frames (f 3 4h 4w)."""
    coefficients = rearrange(
        latents.float() / scale, "f (i j c) h w -> f c (h i) (w j)", i=BLOCK, j=BLOCK
    )
    return _both_ways(coefficients, inverse=True)
