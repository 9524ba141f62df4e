"""CUDA graphs of repeated work: captured once, then launched as one."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Protocol
from weakref import WeakSet

import torch

from venhancer.device import is_out_of_memory
from venhancer.errors import DeviceError
from venhancer.sampling.sampler import Work
from venhancer_rt import cuda_facts

logger = logging.getLogger(__name__)

WARM_UPS = 2  # calls before the first capture: kernels are chosen; work of few calls needs no graph


class Graph(Protocol):
    """Interface of captured work."""

    def replay(self) -> None:
        """Queue the work on the current stream."""

    def pool(self) -> Any:
        """Return the memory pool that the work uses."""


class Recorder(Protocol):
    """Interface of the CUDA functions that capturing needs."""

    def run(self, work: Work) -> None:
        """Run work on the stream that captures, in order with the current stream."""

    def capture(self, work: Work, beside: Graph | None) -> Graph:
        """Record work without running it, in the memory pool of another graph."""

    @property
    def nodes(self) -> Counter[str]:
        """Nodes of all graphs so far by kind; empty if they cannot be counted."""


class GraphCapture:
    """Maker of functions that become CUDA graphs.

    The graphs share one memory pool. So no two of them may run at the same time, and a graph may
    overwrite what another one left there: work copies what is to be kept to a tensor of its own.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder or CudaRecorder()
        self._captured: WeakSet[_Step] = WeakSet()

    @property
    def nodes(self) -> Counter[str]:
        """Nodes of all graphs so far, by kind: kernel, memcpy, host and others."""
        return self._recorder.nodes

    def __call__(self, work: Work) -> Work:
        """Make a function that runs `work`: as it is at first, as a graph from the third call on.

        Once there is a graph, other work is captured after its first call, before further calls
        take memory that its graph cannot use. If a capture fails for lack of memory, work runs on
        without a graph.
        """
        return _Step(work, self._recorder, self._captured)


class _Step:
    """Work that becomes a graph; captured: all work that has become one."""

    def __init__(self, work: Work, recorder: Recorder, captured: WeakSet[_Step]) -> None:
        self.work = work
        self.recorder = recorder
        self.captured = captured
        self.calls = 0
        self.was_tried = False  # True once a capture was tried
        self.graph: Graph | None = None

    @torch.inference_mode()
    def __call__(self) -> None:
        if self.graph is not None:
            self.graph.replay()
            return
        self.recorder.run(self.work)
        self.calls += 1
        if not self.was_tried and self.calls >= (1 if self.captured else WARM_UPS):
            self._capture()

    def _capture(self) -> None:
        """Capture the work; it has been run, so an error here must not make a caller repeat it."""
        self.was_tried = True
        other = next(iter(self.captured), None)
        try:
            self.graph = self.recorder.capture(self.work, other.graph if other else None)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("no memory for a CUDA graph: goes on without it")
        else:
            self.captured.add(self)


class CudaRecorder:
    """Recorder of CUDA graphs by PyTorch, on one stream, so that graphs can share its memory.

    With cuda-python the nodes of all graphs are counted, and graphs are uploaded to the card before
    their first launch.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self.nodes: Counter[str] = Counter()
        self.counts = cuda_facts.bindings() is not None and hasattr(
            torch.cuda.CUDAGraph, "raw_cuda_graph_exec"
        )

    @property
    def stream(self) -> torch.cuda.Stream:
        """Stream that captures, made on first use, because a machine without CUDA has none."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        return self._stream

    def run(self, work: Work) -> None:
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            work()
        current.wait_stream(self.stream)

    def capture(self, work: Work, beside: Graph | None) -> Graph:
        graph = torch.cuda.CUDAGraph(keep_graph=True) if self.counts else torch.cuda.CUDAGraph()
        pool = beside.pool() if beside else None
        try:
            # the outer `stream` restores the current one, also when the capture fails to end
            with (
                torch.cuda.stream(self.stream),
                torch.cuda.graph(
                    graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"
                ),
            ):
                work()
        except Exception as error:
            cause = lack_of_memory(error)
            if cause is None:
                raise
            raise cause from None
        if self.counts:
            self._inspect(graph)
        return graph

    def _inspect(self, graph: torch.cuda.CUDAGraph) -> None:
        """Count the graph's nodes and upload it; of errors, only a lack of memory is raised."""
        try:
            self.nodes += cuda_facts.count_nodes(graph.raw_cuda_graph())
            graph.instantiate()
            stream = torch.cuda.current_stream()  # the graph is launched on it
            cuda_facts.upload(graph.raw_cuda_graph_exec(), stream.cuda_stream)
        except DeviceError as error:
            logger.warning("CUDA graphs are no longer inspected: %s", error)
            self.counts = False


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """Find the lack of memory behind a failed capture, whose end may have failed too; else None."""
    while error is not None and not is_out_of_memory(error):
        error = error.__context__
    return error
