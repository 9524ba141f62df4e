"""Work that is repeated, as a CUDA graph: captured once, then launched as one."""

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

WARM_UPS = 2  # calls before the first capture: kernels are chosen, and a few never pay for one


class Graph(Protocol):
    """Captured work."""

    def replay(self) -> None:
        """Queue it on the current stream."""

    def pool(self) -> Any:
        """The memory that it works in."""


class Recorder(Protocol):
    """What is needed of CUDA."""

    def run(self, work: Work) -> None:
        """Do work, in order with the current stream, on the stream that captures."""

    def capture(self, work: Work, beside: Graph | None) -> Graph:
        """Record what work would do, without doing it, in the memory of another graph."""

    @property
    def nodes(self) -> Counter[str]:
        """Nodes of all graphs so far by kind; empty where they cannot be counted."""


class GraphCapture:
    """Makes functions of work that become CUDA graphs.

    These share one pool of memory, so no two of them may run at the same time, and none finds
    there what another one left: what is to be kept, work copies to a tensor of its own.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder or CudaRecorder()
        self._captured: WeakSet[_Step] = WeakSet()

    @property
    def nodes(self) -> Counter[str]:
        """Nodes of all graphs so far, by kind: kernel, memcpy, host and others."""
        return self._recorder.nodes

    def __call__(self, work: Work) -> Work:
        """A function that does `work`: as it is at first, as a graph from the third call on.

        Once there is a graph, other work is captured after its first call, before such calls have
        taken memory that its graph cannot use. Where a capture fails by lack of memory, work stays
        as it is.
        """
        return _Step(work, self._recorder, self._captured)


class _Step:
    """Work on its way to a graph. captured: all that are there"""

    def __init__(self, work: Work, recorder: Recorder, captured: WeakSet[_Step]) -> None:
        self.work = work
        self.recorder = recorder
        self.captured = captured
        self.calls = 0
        self.was_tried = False  # to capture it
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
        """The work was done: what goes wrong here must not make anybody do it again."""
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
    """CUDA's graphs, by PyTorch, on one stream: what is captured on it can share its memory.

    With cuda-python the nodes of all graphs are counted, and graphs are on the card before their
    first launch.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self.nodes: Counter[str] = Counter()
        self.counts = cuda_facts.bindings() is not None and hasattr(
            torch.cuda.CUDAGraph, "raw_cuda_graph_exec"
        )

    @property
    def stream(self) -> torch.cuda.Stream:
        """Made when there is work, so that nothing is asked of a machine without CUDA."""
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
            # the outer `stream`: where the capture cannot end, the inner one leaves its own behind
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
        """Count its nodes and bring it to the card; only a lack of memory for it is an error."""
        try:
            self.nodes += cuda_facts.count_nodes(graph.raw_cuda_graph())
            graph.instantiate()
            stream = torch.cuda.current_stream()  # on which it will be launched
            cuda_facts.upload(graph.raw_cuda_graph_exec(), stream.cuda_stream)
        except DeviceError as error:
            logger.warning("CUDA graphs are no longer inspected: %s", error)
            self.counts = False


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """What ended a capture, where ending it failed in turn; None where it was something else."""
    while error is not None and not is_out_of_memory(error):
        error = error.__context__
    return error
