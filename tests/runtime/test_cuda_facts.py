"""Queries to cuda-python, answered by a stand-in; real graphs if there is a GPU."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from venhancer.errors import DeviceError
from venhancer_rt import cuda_facts
from venhancer_rt.cli import main
from venhancer_rt.cuda_graph import CudaRecorder, GraphCapture


class Status(Enum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorInvalidValue = 1  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815


class Kind(Enum):
    cudaGraphNodeTypeKernel = 0  # noqa: N815
    cudaGraphNodeTypeMemcpy = 1  # noqa: N815
    cudaGraphNodeTypeHost = 3  # noqa: N815


NODES = [Kind.cudaGraphNodeTypeKernel, Kind.cudaGraphNodeTypeMemcpy, Kind.cudaGraphNodeTypeKernel]


def fake_bindings(status: Status = Status.cudaSuccess) -> Any:
    """Make answers like those of cuda-python: the status first."""
    return SimpleNamespace(
        cudaError_t=Status,
        cudaDriverGetVersion=lambda: (status, 12040),
        cudaRuntimeGetVersion=lambda: (status, 13000),
        cudaGraphGetNodes=lambda graph, count=0: (status, NODES[:count], len(NODES)),
        cudaGraphNodeGetType=lambda node: (status, node),
    )


def test_nodes_are_counted_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes are counted under CUDA's names of their kinds."""
    monkeypatch.setattr(cuda_facts, "bindings", fake_bindings)

    assert cuda_facts.count_nodes(1) == Counter(kernel=2, memcpy=1)


def test_versions_are_read_as_cuda_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's number 12040 is version 12.4."""
    monkeypatch.setattr(cuda_facts, "bindings", fake_bindings)

    assert cuda_facts.versions() == {"driver": "12.4", "cuda-python": "13.0"}


def test_a_call_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the name of the error."""
    monkeypatch.setattr(cuda_facts, "bindings", lambda: fake_bindings(Status.cudaErrorInvalidValue))

    with pytest.raises(DeviceError, match="CUDA: cudaErrorInvalidValue"):
        cuda_facts.count_nodes(1)
    assert cuda_facts.versions() == {}


def test_a_lack_of_memory_can_be_recovered_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that does not fit in memory is skipped, as when the capture itself lacks memory."""
    bindings = fake_bindings()
    bindings.cudaGraphUpload = lambda *_: (Status.cudaErrorMemoryAllocation,)
    monkeypatch.setattr(cuda_facts, "bindings", lambda: bindings)

    with pytest.raises(torch.OutOfMemoryError):
        cuda_facts.upload(1, 2)


def test_without_cuda_python_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured without being counted."""
    monkeypatch.setattr(cuda_facts, "bindings", lambda: None)

    assert cuda_facts.versions() == {}
    assert not CudaRecorder().counts


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_an_error_of_the_device_names_the_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message makes a driver that is too old visible at once."""
    monkeypatch.setattr(cuda_facts, "bindings", fake_bindings)

    assert main(["plan", "assets/butterfly.mp4", "--device", "cuda"]) == 2
    assert "(CUDA here: driver 12.4, cuda-python 13.0)" in capsys.readouterr().err


@pytest.mark.gpu
def test_no_graph_calls_the_host() -> None:
    """Host nodes, which would stall the card at each replay, are absent."""
    if cuda_facts.bindings() is None:
        pytest.skip("needs cuda-python")
    x, capture = torch.zeros(8, device="cuda"), GraphCapture()
    step = capture(lambda: x.add_(1).mul_(2).copy_(x.flip(0)))
    for _ in range(4):
        step()

    assert capture.nodes["kernel"] > 0
    assert capture.nodes["host"] == 0
