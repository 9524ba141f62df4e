"""Noise levels: a cosine schedule, shifted for high resolution, rescaled to end in pure noise.

Simple diffusion (Hoogeboom et al. 2023) for the shifted log-SNR; Lin et al. 2024 for zero terminal
SNR. alpha = sqrt(1 - sigma^2), x_t = alpha x_0 + sigma noise, v = alpha noise - sigma x_0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from venhancer.config import Prediction, SolverName
from venhancer.errors import OptionError

TIMESTEPS = 1000
LOGSNR_MAX = 15.0
CLEAN_SHIFT, NOISY_SHIFT = 2.0, 4.0  # resolution scale at the clean and at the noisy end
SPLIT = 500  # where the release's `fast` spacing turns from coarse to fine
FEWEST_FAST = 6
START = 899  # the release diffuses its start to this timestep


def _shifted_logsnr(u: Tensor, scale: float) -> Tensor:
    low, high = math.atan(math.exp(0.5 * LOGSNR_MAX)), math.atan(math.exp(-0.5 * LOGSNR_MAX))
    return -2 * torch.log(torch.tan(low + u * (high - low))) + 2 * math.log(1 / scale)


def noise_schedule() -> Tensor:
    """Compute sigma of every timestep, in float64 on the CPU: (1000), rising to exactly 1."""
    u = torch.linspace(1, 0, TIMESTEPS, dtype=torch.float64, device="cpu")
    logsnr = u * _shifted_logsnr(u, CLEAN_SHIFT) + (1 - u) * _shifted_logsnr(u, NOISY_SHIFT)
    sigmas = torch.sigmoid(-logsnr).sqrt()
    first, last = sigmas[0].clone(), sigmas[-1].clone()
    return first + (sigmas - first) * (1 - first) / (last - first)


def alpha_sigma(sigmas: Tensor, timestep: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Get alpha and sigma of timestep (b), with trailing axes up to `dims` for broadcasting."""
    sigma = sigmas[timestep].reshape(-1, *[1] * (dims - 1))
    return (1 - sigma**2).clamp(min=0).sqrt(), sigma


def diffuse(sigmas: Tensor, x: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Add noise: x_0 (b ...) -> x_t at timestep (b)."""
    alpha, sigma = alpha_sigma(sigmas, timestep, x.ndim)
    return (alpha * x + sigma * noise).to(x.dtype)


def denoised_from(prediction: Prediction, out: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Compute x_0 from the network's prediction at x_t: `v` or `sample`."""
    if prediction == "sample":
        return out
    return (1 - sigma**2).clamp(min=0).sqrt() * x - sigma * out


def karras(timestep: Tensor) -> Tensor:
    """Compute sigma / alpha of fractional timesteps, float64, by interpolating its logarithm."""
    sigmas = noise_schedule()
    log_ratio = (sigmas / (1 - sigmas**2).clamp(min=1e-12).sqrt()).log()
    below = timestep.floor().long().clamp(max=TIMESTEPS - 2)
    share = timestep - below
    return ((1 - share) * log_ratio[below] + share * log_ratio[below + 1]).exp()


@dataclass(frozen=True, slots=True)
class Steps:
    """The evaluations of a run, noisiest first."""

    timesteps: Tensor  # (n), int64: inputs of the network
    sigmas: Tensor  # (n + 1), float64: sigma / alpha for the solver, ending in 0

    def __len__(self) -> int:
        return len(self.timesteps)


def plan_steps(name: SolverName, steps: int, start: int = START) -> Steps:
    """Choose the timesteps that the network is evaluated at.

    `normal`: `steps` evaluations, evenly spaced (trailing). `fast`: the release's two spacings,
    4/15 of the steps down to `SPLIT`, the rest below; the last one is dropped, leaving `steps - 1`.
    """
    if not 1 <= steps <= start + 1:
        raise OptionError(f"steps={steps}: take 1 to {start + 1}")
    if name == "normal":
        return _steps_at(_trailing(start, -1, steps + 1)[:-1])
    if steps < FEWEST_FAST:
        raise OptionError(f"steps={steps} is too few for `fast`: take {FEWEST_FAST} or `normal`")
    early = round(steps * 4 / 15)
    coarse = _trailing(start, SPLIT - 1, early)
    fine = _trailing(SPLIT, -1, steps - early)[:-1]
    return _steps_at(torch.cat([coarse, fine]))


def _trailing(first: int, end: int, count: int) -> Tensor:
    """Make `count` evenly spaced values from `first` towards `end`, without `end`."""
    stride = (first - end) / count
    return first - stride * torch.arange(count, dtype=torch.float64)


def _steps_at(timesteps: Tensor) -> Steps:
    sigmas = torch.cat([karras(timesteps), torch.zeros(1, dtype=torch.float64)])
    return Steps(timesteps.round().long(), sigmas)
