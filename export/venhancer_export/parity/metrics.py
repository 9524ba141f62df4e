"""Distances between two results: for tensors, and for pictures."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SPREAD = 11, 1.5  # of SSIM's Gaussian (Wang et al. 2004)
C1, C2 = 0.01**2, 0.03**2  # SSIM's constants, for values from 0 to 1


def relative_l2(made: Tensor, expected: Tensor) -> float:
    """Compute |made - expected| / |expected|, both in float64; 0 for two zeros."""
    error, size = (made.double() - expected.double()).norm(), expected.double().norm()
    return float(error / size) if size else float(error)


def largest_error(made: Tensor, expected: Tensor) -> float:
    return float((made.double() - expected.double()).abs().max())


def cosine(made: Tensor, expected: Tensor) -> float:
    """Compute the cosine of the angle between two vectors; 1 if they are equal, also for zeros."""
    a, b = made.double().flatten(), expected.double().flatten()
    sizes = a.norm() * b.norm()
    return float(a @ b / sizes) if sizes else float(torch.equal(a, b))


def psnr(made: Tensor, expected: Tensor) -> float:
    """Compute the PSNR in dB of values from 0 to 1; infinite where they are equal."""
    error = float((made.double() - expected.double()).square().mean())
    return -10 * math.log10(error) if error else math.inf


def ssim(made: Tensor, expected: Tensor) -> float:
    """Compute the structural similarity of pictures c h w, values 0 to 1, mean over channels.

    As in Wang et al. 2004: an 11x11 Gaussian window that stays inside the picture; for a smaller
    picture, the largest odd window that fits.
    """
    x, y = made.double()[:, None], expected.double()[:, None]
    size = min(WINDOW, *x.shape[-2:])
    window = _gaussian(size - (size + 1) % 2)
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    var_x = _blur(x * x, window) - mean_x**2
    var_y = _blur(y * y, window) - mean_y**2
    covariance = _blur(x * y, window) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return float((similar / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean())


def _gaussian(size: int) -> Tensor:
    ramp = torch.exp(-((torch.arange(size) - size // 2).double() ** 2) / (2 * SPREAD**2))
    return ramp / ramp.sum()


def _blur(x: Tensor, window: Tensor) -> Tensor:
    """Blur rows, then columns: c 1 h w -> c 1 h' w'."""
    return F.conv2d(F.conv2d(x, window[None, None, :, None]), window[None, None, None, :])
