"""Facts read by cuda-python, if it is installed: nodes of a captured graph, versions of CUDA."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from venhancer.device import says_no_memory
from venhancer.errors import DeviceError


def bindings() -> Any:
    """Import cuda-python's bindings of CUDA's runtime; None if it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    return runtime


def versions() -> dict[str, str]:
    """Read the CUDA versions of the driver and of cuda-python; empty if they cannot be read.

    A driver of version 0.0 means that there is no driver.
    """
    runtime = bindings()
    if runtime is None:
        return {}
    try:
        driver = _checked(runtime, *runtime.cudaDriverGetVersion())
        own = _checked(runtime, *runtime.cudaRuntimeGetVersion())
    except DeviceError:
        return {}
    return {"driver": _version(driver), "cuda-python": _version(own)}


def count_nodes(graph: int) -> Counter[str]:
    """Count the nodes of a graph, a `cudaGraph_t`, by their kind."""
    runtime = bindings()
    count = _checked(runtime, *runtime.cudaGraphGetNodes(graph))[1]
    nodes = _checked(runtime, *runtime.cudaGraphGetNodes(graph, count))[0]
    kinds = (_checked(runtime, *runtime.cudaGraphNodeGetType(node)) for node in nodes)
    return Counter(kind.name.removeprefix("cudaGraphNodeType").lower() for kind in kinds)


def upload(executable: int, stream: int) -> None:
    """Upload a graph (`cudaGraphExec_t`) on a stream (`cudaStream_t`) before its first launch."""
    runtime = bindings()
    _checked(runtime, *runtime.cudaGraphUpload(executable, stream))


def _checked(runtime: Any, error: Any, *found: Any) -> Any:
    """Return what a call returned; OutOfMemoryError or DeviceError if it failed."""
    if error != runtime.cudaError_t.cudaSuccess:
        kind = torch.OutOfMemoryError if says_no_memory(error.name) else DeviceError
        raise kind(f"CUDA: {error.name}")
    return found[0] if len(found) == 1 else found


def _version(number: int) -> str:
    """Format a version of CUDA, which writes 12.4 as 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
