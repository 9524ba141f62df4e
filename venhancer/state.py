"""Where a sampling run stands between two steps, and who keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from venhancer.plan import Sampling


@dataclass(slots=True, eq=False)
class SolverState:
    """All that the next step needs, besides the plan: noise is drawn anew by seed and frame."""

    x: Tensor  # f c h w, noise counted as sigma / alpha; after the last step, x_0
    previous: Tensor  # f c h w: x_0 as the step before saw it
    step: int = 0  # steps taken

    @classmethod
    def begin(cls, start: Tensor, sampling: Sampling) -> SolverState:
        """Before the first step; `start` (f c h w, diffused) is used up: x lives in its place."""
        x = start.mul_(float(sampling.schedule.sigmas[0]))
        return cls(x, torch.zeros_like(x))


class Journal(Protocol):
    """Keeps states, so that a run which was cut off can go on."""

    def load(self) -> SolverState | None:
        """The state to go on from; None at the beginning."""

    def keep(self, state: SolverState, *, is_last: bool) -> None:
        """Told after every step; whether it is worth its time is the journal's business."""


class NoJournal:
    """Keeps nothing."""

    def load(self) -> SolverState | None:
        return None

    def keep(self, state: SolverState, *, is_last: bool) -> None:
        return None
