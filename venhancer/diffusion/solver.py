"""DPM-Solver++ (2M), as numbers: each step is a weighted sum of four tensors.

x <- keep x + gain denoised + back previous + fresh noise, where x counts noise as sigma / alpha
(Karras et al. 2022) and the network sees x / sqrt(1 + sigma^2). Lu et al. 2022 for the solver; eta
from 0 (ODE) to 1 (SDE) as in k-diffusion's notation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, int], Tensor]  # (x, step) -> x_0


def solver_table(sigmas: Tensor, eta: float = 1.0) -> Tensor:
    """Weights of (x, denoised, previous denoised, noise).

    sigmas: (steps + 1), falling, the last one 0, float64 -> (steps, 4)
    """
    sigma, following = sigmas[:-1], sigmas[1:]
    table = torch.zeros(len(sigma), 4, dtype=torch.float64)
    h = (
        sigma[:-1].log() - following[:-1].log()
    )  # the last step ends at 0: log-SNR has no step there
    gain = -torch.expm1(-(1 + eta) * h)
    back = torch.zeros_like(h)
    back[1:] = gain[1:] * h[1:] / (2 * h[:-1])
    table[:-1, 0] = following[:-1] / sigma[:-1] * torch.exp(-eta * h)
    table[:-1, 1] = gain + back
    table[:-1, 2] = -back
    table[:-1, 3] = following[:-1] * (-torch.expm1(-2 * eta * h)).sqrt()
    table[-1, 1] = 1.0  # at sigma 0 only `denoised` is left
    return table


def advance(
    x: Tensor, denoised: Tensor, previous: Tensor, noise: Tensor | None, rows: Tensor
) -> Tensor:
    """One solver step of frames f c h w, in place: rows (f 4), or one row of `solver_table` (4)."""
    keep, gain, back, fresh = rows.to(x.dtype)[..., None, None, None].unbind(-4)
    x.mul_(keep).addcmul_(denoised, gain).addcmul_(previous, back)
    return x if noise is None else x.addcmul_(noise, fresh)


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's second-order ODE solver, two evaluations a step: kept for parity with the release.

    `denoise` takes the index of the sigma that x is at.
    """
    for i, (sigma, following) in enumerate(
        zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)
    ):
        slope = (x - denoise(x, i)) / sigma
        ahead = x + slope * (following - sigma)
        if following > 0:
            slope = (slope + (ahead - denoise(ahead, i + 1)) / following) / 2
        x = x + slope * (following - sigma)
    return x
