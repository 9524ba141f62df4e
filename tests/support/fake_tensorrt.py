"""A stand-in for the parts of TensorRT that its builder needs."""

from __future__ import annotations

from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

DTYPES = {1: "FLOAT", 7: "INT64", 10: "HALF"}  # by ONNX's number
DataType = Enum("DataType", list(DTYPES.values()))


class Base:
    """A base class that the bindings let a user subclass."""


class Config:
    def __init__(self, device: bytes) -> None:
        self.flags: list[str] = []
        self.limits: dict[str, int] = {}
        self.device, self.timings = device, None

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data or self.device, serialize=lambda: self.device + b"+")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.timings = cache.data
        return cache.data.startswith(self.device)


class FakeTensorRT(SimpleNamespace):
    """A stand-in for the module; records requests in `networks` and `configs`."""

    def __init__(self, version: str = "11.4.0.106", device: bytes = b"this GPU") -> None:
        flag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
        super().__init__(
            __name__="tensorrt",
            __version__=version,
            ILogger=Base,
            IStreamWriter=Base,
            DataType=DataType,
            NetworkDefinitionCreationFlag=flag,
            LayerType=SimpleNamespace(ATTENTION_INPUT="attention"),
            MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
            BuilderFlag=SimpleNamespace(STRIP_PLAN="strip", REFIT_IDENTICAL="identical"),
            device=device,
            networks=[],
            configs=[],
            engine=None,
        )

    def Builder(self, log: Any) -> Any:  # noqa: N802
        return SimpleNamespace(
            create_network=self._network,
            create_builder_config=self._config,
            build_serialized_network_to_stream=self._serialize,
        )

    def OnnxParser(self, network: Any, log: Any) -> Any:  # noqa: N802
        def parse(path: str) -> bool:
            graph = onnx.load(path).graph
            inputs, outputs = list(graph.input), list(graph.output)
            network.num_inputs, network.num_outputs = len(inputs), len(outputs)
            network.get_input = lambda i: _tensor(inputs[i])
            network.get_output = lambda i: _tensor(outputs[i])
            return True

        return SimpleNamespace(parse_from_file=parse)

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=lambda data: self.engine)

    def loads(self, path: Path) -> None:
        """Give engines the tensors of this graph from now on."""
        graph = onnx.load(path).graph
        ports = [_tensor(value) for value in (*graph.input, *graph.output)]
        by_name = {port.name: port for port in ports}
        self.engine = SimpleNamespace(
            num_io_tensors=len(ports),
            get_tensor_name=lambda i: ports[i].name,
            get_tensor_shape=lambda name: by_name[name].shape,
            get_tensor_dtype=lambda name: by_name[name].dtype,
        )

    def _network(self, flags: int) -> Any:
        self.networks.append(SimpleNamespace(flags=flags, num_layers=0))
        return self.networks[-1]

    def _config(self) -> Config:
        self.configs.append(Config(self.device))
        return self.configs[-1]

    def _serialize(self, network: Any, config: Config, stream: Any) -> bool:
        return stream.write(b"a plan") == len(b"a plan")


def _tensor(value: Any) -> Any:
    kind = value.type.tensor_type
    return SimpleNamespace(
        name=value.name,
        shape=tuple(d.dim_value for d in kind.shape.dim),
        dtype=DataType[DTYPES[kind.elem_type]],
    )
