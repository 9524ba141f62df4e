"""Runs without files: frames of any depth, with or without alpha, go in and come out as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.clips import described_clip, moving_frames, small_preset
from venhancer.errors import Cancelled
from venhancer.options import Options
from venhancer.pipeline import alpha as alpha_planes
from venhancer.pipeline import colour_fix, compare, filling
from venhancer.pipeline import frames as model_frames
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.run import generate, silent
from venhancer.pipeline.state import NoJournal, State
from venhancer.planning.plan import Plan, make_plan
from venhancer.video.clip import Clip

READERS = (model_frames, filling, colour_fix, alpha_planes, compare)  # they read the input


def deep_frames(count: int, width: int = 48, height: int = 32) -> list[Frame]:
    """Make moving frames of 16 bits, with values that 8 bits cannot hold."""
    rng = np.random.default_rng(0)
    fine = rng.integers(-128, 129, (height, width, 3))
    shallow = moving_frames(count, width, height)
    return [
        np.clip(frame.astype(int) * 257 + fine, 0, 65535).astype(np.uint16) for frame in shallow
    ]


@dataclass
class Input:
    """A clip in memory, in place of the one that is read."""

    frames: Sequence[Frame]
    alpha: Sequence[Frame] = ()
    opened_at: list[int] = field(default_factory=list)

    def read_frames(self, clip: Clip, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        self.opened_at.append(start)
        return iter(self.frames[start:stop])

    def read_alpha(self, clip: Clip, start: int = 0) -> Iterator[Frame]:
        return islice(iter(self.alpha), start, None)

    @property
    def clip(self) -> Clip:
        """The clip as probing would describe it."""
        height, width = self.frames[0].shape[:2]
        is_deep = self.frames[0].dtype == np.uint16
        clip = described_clip(len(self.frames), width, height)
        return dataclasses.replace(clip, depth=10 if is_deep else 8, has_alpha=bool(self.alpha))

    def plan(self, cuts: tuple[int, ...] = (), **options: object) -> Plan:
        """Plan a run at the input's own size, unless options say otherwise."""
        chosen = {"scale": 1.0, "refine": 0, **options}
        clip = dataclasses.replace(self.clip, cuts=cuts)
        return make_plan(clip, small_preset(), Options(**chosen))  # type: ignore[arg-type]


def given(
    monkeypatch: pytest.MonkeyPatch, frames: Sequence[Frame], alpha: Sequence[Frame] = ()
) -> Input:
    """Let the pipeline read these frames."""
    source = Input(frames, alpha)
    for module in READERS:
        monkeypatch.setattr(module, "read_frames", source.read_frames)
    for reader in (alpha_planes, compare):
        monkeypatch.setattr(reader, "read_alpha", source.read_alpha)
    return source


@dataclass
class Collected:
    """Output that keeps all frames."""

    frames: list[Frame] = field(default_factory=list)

    def add(self, frame: Frame, moment: Fraction) -> None:
        self.frames.append(frame)


def made(plan: Plan, networks: object, **more: object) -> NDArray[np.generic]:
    """Carry out a plan -> all frames: f H W 3 or 4."""
    output = Collected()
    generate(plan, output, networks, Options(), **more)  # type: ignore[arg-type]
    return np.stack(output.frames)


class Memory(NoJournal):
    """Journal that keeps every state, and the frames that had left before it."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.added: list[Frame] = []

    def load(self) -> State | None:
        return self.state

    def frames(self) -> Iterator[Frame]:
        self.added = self.added[: self.state.frames if self.state else 0]
        return iter(list(self.added))

    def add(self, frame: Frame) -> None:
        self.added.append(frame.copy())

    def is_due(self) -> bool:
        return True

    def keep(self, state: State) -> None:
        tensors = {name: x.clone() for name, x in state.tensors.items()}
        self.state = dataclasses.replace(state, tensors=tensors)


def resumed(plan: Plan, networks: object, calls: int) -> NDArray[np.generic]:
    """Cut a run off at a call of its progress, then go on from its last state -> all frames."""
    journal, left = Memory(), [calls]

    def cut_off(stage: str, done: int, total: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Cancelled("cut off")

    with pytest.raises(Cancelled):
        made(plan, networks, progress=cut_off, journal=journal)
    assert journal.state is not None, "cut off before there was a state to go on from"
    return made(plan, networks, progress=silent, journal=journal)
