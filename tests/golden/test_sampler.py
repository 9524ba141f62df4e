"""The schedule, the solver and the joined windows agree with the released implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from venhancer.config import SolverName
from venhancer.diffusion import solver
from venhancer.diffusion.guidance import guide
from venhancer.diffusion.schedule import (
    Steps,
    denoised_from,
    diffuse,
    karras,
    noise_schedule,
    plan_steps,
)
from venhancer.spans import Span, join_shares

HERE = Path(__file__).parent
SAMPLER = np.load(HERE / "sampler.npz")
WINDOWS = np.load(HERE / "windows.npz")
SIGMAS = noise_schedule()


def toy(x: Tensor, t: int, y: float) -> Tensor:
    return torch.tanh(0.7 * x + y) - 0.3 * x * t / 1000


def guided_toy(x: Tensor, t: int) -> Tensor:
    """Compute x_0 of the toy model at x_t, with the release's guidance."""
    v = guide(toy(x, t, 0.25), toy(x, t, -0.5), 7.5)
    return denoised_from("v", v, x, SIGMAS[t].float())


def run_table(x: Tensor, steps: Steps, denoise: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Run the solver loop in its shortest form: x_t in, x_0 out."""
    sigmas = steps.sigmas
    x, previous = x * sigmas[0].float(), torch.zeros_like(x)
    for i, row in enumerate(solver.solver_table(sigmas, eta=0.0)):
        seen = x / (1 + sigmas[i].float() ** 2).sqrt()
        denoised = denoise(seen, int(steps.timesteps[i]))
        x = solver.advance(x, denoised, previous, None, row)
        previous = denoised
    return x


def test_sigmas_are_those_of_the_release() -> None:
    """All 1000 noise levels agree; the last is exactly 1."""
    np.testing.assert_allclose(SIGMAS.numpy(), SAMPLER["sigmas"], atol=1e-6)
    assert SIGMAS[-1] == 1


@pytest.mark.parametrize("t", [0, 199, 299, 899, 999])
def test_diffusing_agrees(t: int) -> None:
    """x_t agrees, from x_0 and the same noise."""
    x, noise = torch.from_numpy(SAMPLER["x"]), torch.from_numpy(SAMPLER["noise"])

    out = diffuse(SIGMAS.float(), x, noise, torch.tensor([t]))

    np.testing.assert_allclose(out.numpy(), SAMPLER[f"diffuse_{t}"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "start", "count"),
    [("normal50", 999, 50), ("steps15_t900", 899, 15), ("steps45_t900", 899, 45)],
)
def test_sampling_agrees(name: str, start: int, count: int) -> None:
    """The ODE solver agrees step by step, with guidance 7.5 and rescale 0.2."""
    steps = plan_steps("normal", count, start)
    assert steps.timesteps.tolist() == SAMPLER[f"{name}_timesteps"].tolist()

    out = run_table(torch.from_numpy(SAMPLER["x"]), steps, guided_toy)

    np.testing.assert_allclose(out.numpy(), SAMPLER[name], atol=1e-4)


def test_heun_agrees() -> None:
    """Fifteen steps of Heun are 29 evaluations at the release's timesteps."""
    steps = torch.arange(899, -1, -60)
    sigmas = torch.cat([karras(steps.double()), torch.zeros(1, dtype=torch.float64)])
    seen: list[int] = []

    def denoise(x: Tensor, i: int) -> Tensor:
        seen.append(int(steps[i]))
        return guided_toy(x / (1 + sigmas[i].float() ** 2).sqrt(), int(steps[i]))

    x = torch.from_numpy(SAMPLER["x"]) * sigmas[0].float()
    out = solver.heun(denoise, x, sigmas)

    assert seen == SAMPLER["heun15_t900_timesteps"].tolist()
    np.testing.assert_allclose(out.numpy(), SAMPLER["heun15_t900"], atol=1e-4)


@pytest.mark.parametrize("mode", ["fast", "normal"])
@pytest.mark.parametrize("joined", [False, True])
def test_windows_agree(mode: SolverName, joined: bool) -> None:
    """49 frames agree in one piece, and in three windows cut at overlap middles at every step."""
    steps = plan_steps(mode, 15 if mode == "fast" else 20)
    assert steps.timesteps.tolist() == WINDOWS[f"chunk_{mode}_timesteps"].tolist()
    spans = [Span(0, 23), Span(12, 35), Span(24, 49)] if joined else [Span(0, 49)]
    shares = join_shares(spans, "cut")
    hint, mask = torch.from_numpy(WINDOWS["hint"]), torch.from_numpy(WINDOWS["mask"])[0]

    def windowed_toy(x: Tensor, t: int, y: float, span: Span) -> Tensor:
        index = mask[span.start : span.stop]
        extra = 0.1 * hint[:, :, index.clamp(min=0)] * (index >= 0)[:, None, None]
        return toy(x, t, y) + 0.2 * x.mean(2, keepdim=True) + extra

    def denoise(x: Tensor, t: int) -> Tensor:
        whole = torch.zeros_like(x)
        for span, share in zip(spans, shares, strict=True):
            part = x[:, :, span.start : span.stop]
            v = guide(windowed_toy(part, t, 0.25, span), windowed_toy(part, t, -0.5, span), 7.5)
            x0 = denoised_from("v", v, part, SIGMAS[t].float())
            whole[:, :, span.start : span.stop] += x0 * torch.tensor(share)[:, None, None]
        return whole

    out = run_table(torch.from_numpy(WINDOWS["x"]), steps, denoise)

    kind = "chunk" if joined else "whole"
    np.testing.assert_allclose(out.numpy(), WINDOWS[f"{kind}_{mode}"], atol=1e-4)
