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
    """Everything that the next window step needs besides the plan; noise comes from the seed."""

    scene: int = 0
    window_steps: int = 0  # taken in this scene
    frames: int = 0  # frames of the model that have left
    tensors: Mapping[str, Tensor] = field(default_factory=dict)  # the sampler's latents


class Journal(Protocol):
    """Interface of a journal: it keeps states and frames, so that a cut-off run can be resumed."""

    def load(self) -> State | None:
        """Load the state to go on from; None at the beginning."""

    def frames(self) -> Iterator[Frame]:
        """Iterate over the frames that had left before that state."""

    def add(self, frame: Frame) -> None:
        """Keep a frame that leaves: H W 3; called in order, in the thread that writes."""

    def is_due(self) -> bool:
        """True if it is time to keep a state."""

    def keep(self, state: State) -> None:
        """Keep a state; all frames that left before it were added."""

    def adopt(self, plan: Plan) -> None:
        """Switch to the states of another plan with the same windows."""


class NoJournal:
    """Journal that keeps nothing."""

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
