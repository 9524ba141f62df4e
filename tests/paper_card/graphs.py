"""CUDA graphs of the paper card: a capture records operators, a replay runs them.

All memory of a pool is poisoned before and after each replay, so a value that one graph left there
is never read by another graph, nor by the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch.utils._python_dispatch import _disable_current_modes

from tests.paper_card.card import CARD, CaptureError, Recorder


class PaperStream:
    """A stream: everything runs in order anyway."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.cuda_stream = id(self)

    def wait_stream(self, other: PaperStream) -> None:
        """Do nothing: there is nothing to wait for."""

    def synchronize(self) -> None:
        refuse_in_captures("stream.synchronize")


DEFAULT = PaperStream()
_current = [DEFAULT]


def current_stream(*_: Any) -> PaperStream:
    return _current[-1]


@contextmanager
def on_stream(stream: PaperStream | None) -> Iterator[None]:
    _current.append(stream or current_stream())
    try:
        yield
    finally:
        _current.pop()


def synchronize(*_: Any) -> None:
    refuse_in_captures("synchronize")


def refuse_in_captures(what: str) -> None:
    if CARD.recorder is not None:
        raise CaptureError(f"operation not permitted when stream is capturing: {what}")


@contextmanager
def on_the_processor() -> Iterator[None]:
    """Run operators on the CPU without the card's checks, which were made at the capture."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


class PaperPool:
    """Memory that graphs share."""

    def __init__(self) -> None:
        self.graphs: WeakSet[PaperGraph] = WeakSet()

    def poison(self) -> None:
        for graph in self.graphs:
            for x in graph.own:
                fill_with_poison(x)


class PaperGraph(Recorder):
    """Recorded operators in order. own: all tensors that lie in the pool"""

    def __init__(self, keep_graph: bool = False) -> None:
        self.operators: list[tuple[Any, Any, Any, list[torch.Tensor | None]]] = []
        self.own: list[torch.Tensor] = []
        self.memory = PaperPool()
        self.is_captured = False

    def pool(self) -> PaperPool:
        return self.memory

    def record(
        self, operator: Any, args: Any, kwargs: Any, made: list[torch.Tensor | None]
    ) -> None:
        self.operators.append((operator, args, kwargs, made))
        self.own.extend(x for x in made if x is not None)

    def finish(self) -> None:
        """Poison the results: a capture computes nothing, so they have no values."""
        self.is_captured = True
        self.memory.graphs.add(self)
        with on_the_processor():
            self.memory.poison()

    def replay(self) -> None:
        assert self.is_captured, "replay of a graph that was never captured"
        refuse_in_captures("replay")
        with on_the_processor():
            self._replay()

    def _replay(self) -> None:
        self.memory.poison()
        for operator, args, kwargs, kept in self.operators:
            made = operator(*args, **kwargs)
            tensors = made if isinstance(made, list | tuple) else [made]
            for old, new in zip(kept, tensors, strict=True):
                if old is not None:
                    old.copy_(new)
        self.memory.poison()


class capture:  # noqa: N801 (it stands for torch.cuda.graph)
    """Records the operators of a block, on a stream."""

    def __init__(
        self,
        graph: PaperGraph,
        pool: PaperPool | None = None,
        stream: PaperStream | None = None,
        capture_error_mode: str = "global",
    ) -> None:
        assert capture_error_mode in ("global", "thread_local", "relaxed")
        self.graph = graph
        self.graph.memory = pool or graph.memory
        self.stream = on_stream(stream or PaperStream())

    def __enter__(self) -> None:
        refuse_in_captures("capture")
        self.stream.__enter__()
        CARD.recorder = self.graph

    def __exit__(self, kind: Any, *rest: Any) -> None:
        CARD.recorder = None
        self.stream.__exit__(None, None, None)
        if kind is None:
            self.graph.finish()


def fill_with_poison(x: torch.Tensor) -> None:
    """Fill with NaN, or with a number that gives a wrong result wherever it is used."""
    if x.dtype.is_floating_point:
        x.fill_(float("nan"))
    elif x.dtype == torch.bool:
        x.fill_(True)
    else:
        x.fill_(2**30 if x.dtype in (torch.int64, torch.int32) else 7)
