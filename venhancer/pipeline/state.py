"""The state of a run between two window steps, and the journal that keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from venhancer.pipeline.pixels import Frame
from venhancer.planning.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that the next window step needs besides the plan; noise is drawn anew from the seed."""

    scene: int = 0
    window_steps: int = 0  # taken in this scene
    frames: int = 0  # of those that the model makes, that have left
    tensors: Mapping[str, Tensor] = field(default_factory=dict)  # the sampler's latents


class Journal(Protocol):
    """Keeps states and the frames that have left, so that a run which was cut off can go on."""

    def load(self) -> State | None:
        """The state to go on from; None at the beginning."""

    def frames(self) -> Iterator[Frame]:
        """The frames that had left by then."""

    def add(self, frame: Frame) -> None:
        """A frame leaves: H W 3; called in order, in the thread that writes."""

    def is_due(self) -> bool:
        """Whether a state is worth its time now."""

    def keep(self, state: State) -> None:
        """Keep a state; all frames that left before it were added."""

    def adopt(self, plan: Plan) -> None:
        """From now on states are those of another plan, with the same windows."""


class NoJournal:
    """Keeps nothing."""

    def load(self) -> State | None:
        return None

    def frames(self) -> Iterator[Frame]:
        return iter(())

    def add(self, frame: Frame) -> None:
        return None

    def is_due(self) -> bool:
        return False

    def keep(self, state: State) -> None:
        return None

    def adopt(self, plan: Plan) -> None:
        return None
