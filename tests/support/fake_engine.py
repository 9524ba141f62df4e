"""A stand-in for TensorRT's engine interface, which computes on the CPU.

A plan is the name of a network; its engine reads its inputs and writes its outputs at the addresses
that it is given, as the real one does.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from venhancer.bundle.manifest import TensorInfo
from venhancer.bundle.static_networks import NetworkFunction
from venhancer_rt import engine

VERSION = "11.4.0.106"
ALIGNMENT = 64  # bytes: PyTorch's on the CPU, which this stand-in requires
NAMES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32"}
STREAM = 7
Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO"])
TensorIOMode = Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
EngineStat = Enum("EngineStat", ["TOTAL_WEIGHTS_SIZE", "STRIPPED_WEIGHTS_SIZE"])
Strategy = Enum("ExecutionContextAllocationStrategy", ["STATIC", "USER_MANAGED"])


def use_cpu(patch: pytest.MonkeyPatch) -> None:
    """Let engines run on the CPU: with its stream, and with PyTorch's addresses there."""
    stream = SimpleNamespace(cuda_stream=STREAM)
    patch.setattr(torch.cuda, "current_stream", lambda: stream)
    patch.setattr(engine, "ALIGNMENT", ALIGNMENT)


def one_line(call: Callable[[], object], kind: type[Exception]) -> str:
    """Return the one-line message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@dataclass(slots=True, kw_only=True)
class FakeNetwork:
    """The content of a plan, and the faults to simulate."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    run: NetworkFunction
    scratch: int = 0
    stripped: int = -1  # the real engine's value if it was not stripped
    has_context: bool = True
    failure: str = ""  # logged by a call that fails


class FakeContext:
    """A context that computes on request, in the memory that it was given."""

    def __init__(self, network: FakeNetwork, log: Any) -> None:
        self.network = network
        self.log = log
        self.addresses: dict[str, int] = {}
        self.scratch = (0, 0)
        self.streams: list[int] = []

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.network.scratch
        self.scratch = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        names = {port.name for port in (*self.network.inputs, *self.network.outputs)}
        self.addresses[name] = memory
        return name in names and memory % ALIGNMENT == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.network.failure:
            self.log.log(Severity.ERROR, self.network.failure)
            return False
        memory, size = self.scratch
        assert size or not self.network.scratch, "no memory to compute in"
        ctypes.memset(memory, 255, size)  # the engine may overwrite all of it
        made = self.network.run({p.name: self._at(p).clone() for p in self.network.inputs})
        for port in self.network.outputs:
            self._at(port).copy_(made[port.name])
        self.streams.append(stream_handle)
        return True

    def _at(self, port: TensorInfo) -> Tensor:
        dtype = getattr(torch, port.dtype)
        size = math.prod(port.shape) * dtype.itemsize
        buffer = (ctypes.c_char * size).from_address(self.addresses[port.name])
        return torch.frombuffer(buffer, dtype=dtype).view(port.shape)


class FakeEngine:
    """An engine that describes its network, and makes contexts for it."""

    def __init__(self, network: FakeNetwork, log: Any) -> None:
        self.network = network
        self.log = log
        self.ports = {port.name: port for port in (*network.outputs, *network.inputs)}
        self.contexts: list[FakeContext] = []

    @property
    def num_io_tensors(self) -> int:
        return len(self.ports)

    @property
    def device_memory_size_v2(self) -> int:
        return self.network.scratch

    def get_tensor_name(self, index: int) -> str:
        return list(self.ports)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        is_input = self.ports[name] in self.network.inputs
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        return list(self.ports[name].shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=NAMES[self.ports[name].dtype])

    def get_engine_stat(self, stat: EngineStat) -> int:
        assert stat == EngineStat.STRIPPED_WEIGHTS_SIZE
        return self.network.stripped

    def create_execution_context(self, strategy: Strategy) -> FakeContext | None:
        assert strategy == Strategy.USER_MANAGED
        if not self.network.has_context:
            self.log.log(Severity.ERROR, "no kernel\nfits")
            return None
        self.contexts.append(FakeContext(self.network, self.log))
        return self.contexts[-1]


class ILogger:
    """The base class of loggers."""


class FakeTensorRT(SimpleNamespace):
    """A stand-in for the module; keeps its engines. networks: by the content of their plans"""

    def __init__(self, networks: Mapping[bytes, FakeNetwork], version: str = VERSION) -> None:
        super().__init__(
            __name__="tensorrt",
            __version__=version,
            ILogger=ILogger,
            TensorIOMode=TensorIOMode,
            EngineStat=EngineStat,
            ExecutionContextAllocationStrategy=Strategy,
            networks=networks,
            engines=[],
            loggers=[],
            can_start=True,
        )

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        self.loggers.append(logger)
        if not self.can_start:
            logger.log(Severity.INTERNAL_ERROR, "no driver")
            raise TypeError("the factory function returned nullptr")

        def deserialize(serialized_engine: Any) -> FakeEngine | None:
            network = self.networks.get(bytes(serialized_engine))
            if network is None:
                logger.log(Severity.WARNING, "odd")
                logger.log(Severity.ERROR, "another\nversion")
                return None
            self.engines.append(FakeEngine(network, logger))
            return self.engines[-1]

        return SimpleNamespace(deserialize_cuda_engine=deserialize)
