"""DPM-Solver++ (2M) as a table of weights: each step is a weighted sum of four tensors.

x <- keep x + gain denoised + back previous + fresh noise. In this file, sigma is the ratio of noise
to signal (sigma / alpha, as in Karras et al. 2022); the network sees x / sqrt(1 + sigma^2). The
solver is by Lu et al. 2022; eta goes from 0 (ODE) to 1 (SDE), as in k-diffusion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, int], Tensor]  # (x, step) -> x_0


def solver_table(sigmas: Tensor, eta: float = 1.0) -> Tensor:
    """Compute the weights of (x, denoised, previous denoised, noise) for every step.

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
    """Take one solver step of frames f c h w, in place; rows of `solver_table`: f 4, or one (4)."""
    keep, gain, back, fresh = rows.to(x.dtype)[..., None, None, None].unbind(-4)
    x.mul_(keep).addcmul_(denoised, gain).addcmul_(previous, back)
    return x if noise is None else x.addcmul_(noise, fresh)


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Solve the ODE by Heun's second-order method, two evaluations a step; for parity tests.

    It is kept because the release has it. `denoise` takes the index of the current sigma.
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
