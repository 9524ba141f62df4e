"""The state of the paper card: logged copies, the current capture, and refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

OWN_FOLDERS = ("/venhancer/", "/venhancer_rt/", "/venhancer_export/", "/benchmarks/", "/tests/")
HERE = str(Path(__file__).parent)
HELPERS = ("to_device",)
MACHINERY = tuple(f"{HERE}/{name}.py" for name in ("card", "cuda", "graphs", "tensors"))


class PaperError(RuntimeError):
    """An operator received something that a real card refuses."""


class CaptureError(RuntimeError):
    """An operation that a capture does not permit."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A copy between host and card, or the host waiting for the card."""

    kind: str
    operator: str
    shape: tuple[int, ...]
    function: str  # the innermost function of this project: module.function
    line: str  # its place: file:line

    def __str__(self) -> str:
        return f"{self.kind}: {self.operator} {self.shape} in {self.function} at {self.line}"


class Recorder:
    """Records operators while a graph is captured."""

    def record(
        self, operator: Any, args: Any, kwargs: Any, made: list[torch.Tensor | None]
    ) -> None:
        """made: tensors that a replay fills; None for those that share memory with an input"""
        raise NotImplementedError


@dataclass(slots=True)
class Card:
    """The one card.

    allocations: number of tensors made outside captures
    lacks_memory: asked before every tensor is made, with the function of ours that wants it
    """

    recorder: Recorder | None = None
    crossings: list[Crossing] = field(default_factory=list)
    allocations: int = 0
    lacks_memory: Callable[[str], bool] | None = None

    def note(self, kind: str, operator: Any, shape: tuple[int, ...]) -> None:
        """Log a crossing; CaptureError while a graph is being captured."""
        crossing = Crossing(kind, str(operator), tuple(shape), *caller())
        self.crossings.append(crossing)
        if self.recorder is not None:
            raise CaptureError(f"operation not permitted when stream is capturing: {crossing}")

    def allocate(self) -> None:
        """Count a tensor; OutOfMemoryError if the test says that memory is exhausted."""
        if self.lacks_memory is not None and self.lacks_memory(caller()[0]):
            raise torch.OutOfMemoryError("CUDA out of memory: the test wants it so")
        if self.recorder is None:
            self.allocations += 1

    @contextmanager
    def watched(self) -> Iterator[list[Crossing]]:
        """Collect the crossings of a block of code."""
        before, self.crossings = self.crossings, []
        try:
            yield self.crossings
        finally:
            self.crossings = before + self.crossings


CARD = Card()


def caller() -> tuple[str, str]:
    """Find the running function of this project, and file:line; empty outside the project.

    If that function is `to_device`, return its caller.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_told(frame.f_code):
        frame = frame.f_back
    if frame is None:
        return "", ""
    path, function = Path(frame.f_code.co_filename), frame.f_code.co_name
    return f"{path.stem}.{function}", f"{path.name}:{frame.f_lineno}"


@cache
def is_told(code: CodeType) -> bool:
    """Tell if a function belongs to this project, without this machinery and helpers."""
    is_ours = any(part in code.co_filename for part in OWN_FOLDERS)
    return is_ours and code.co_filename not in MACHINERY and code.co_name not in HELPERS
