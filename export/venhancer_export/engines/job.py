"""Building of one ONNX graph into a plan, the same with TensorRT and TensorRT-RTX.

`trt` is either package: both have the interfaces that are used here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from venhancer.bundle.manifest import TensorInfo
from venhancer.contract import OPSET, NetworkSpec
from venhancer.errors import BundleError, DeviceError, OutputError, VEnhancerError

logger = logging.getLogger(__name__)

FUSED_HEAD = 256  # channels of a head; wider heads, and float32, have no fused kernel
DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}  # others: in lower case
LINE = 600  # characters of a builder's error messages that are shown


class EngineBuildError(VEnhancerError):
    """A builder could not build an engine."""


class ContractError(AssertionError):
    """A graph or an engine has other tensors than those of `contract.py`: a bug of ours."""


class Job:
    """A graph that was read and checked against the contract, to be configured and built."""

    def __init__(self, trt: Any, graph: Path, spec: NetworkSpec, sizes: Mapping[str, int]) -> None:
        """Read `graph`; BundleError where it is unreadable, ContractError for another network."""
        check_complete(graph)
        self.trt, self.graph, self.expected = trt, graph, contract_ports(spec, sizes)
        self.log = collect_log(trt)
        self._builder = self._start()
        self._network, self._parser = self._read()  # the parser owns the weights
        check_ports(graph, network_ports(self._network), self.expected)
        allow_decomposition(trt, self._network)
        self.config = self._builder.create_builder_config()

    def limit_workspace(self, gib: float | None) -> None:
        if gib is not None:
            workspace = self.trt.MemoryPoolType.WORKSPACE
            self.config.set_memory_pool_limit(workspace, int(gib * 2**30))

    def write(self, plan: Path, *, is_loadable: bool) -> None:
        """Build the plan, whole or not at all; an engine that can be loaded here is checked too.

        EngineBuildError with the builder's messages, OutputError where `plan` cannot be written.
        """
        partial = plan.with_name(f".{plan.name}.part")
        try:
            with partial.open("wb") as file:
                self._build(file)
            if is_loadable:
                check_ports(plan, engine_ports(self.trt, self.log, partial), self.expected)
            partial.replace(plan)
        except OSError as error:
            raise OutputError(f"cannot write {plan}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _start(self) -> Any:
        try:
            return self.trt.Builder(self.log)
        except TypeError as error:  # the bindings raise it for a null pointer
            raise DeviceError(
                f"{self.trt.__name__} cannot start here: {self.log.complaint()}"
            ) from error

    def _read(self) -> tuple[Any, Any]:
        is_typed = self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        network = self._builder.create_network(1 << int(is_typed))
        parser = self.trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(str(self.graph)):
            errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
            raise BundleError(
                f"{self.graph} cannot be read: {one_line(errors) or self.log.complaint()}"
            )
        return network, parser

    def _build(self, file: BinaryIO) -> None:
        """Build straight into the file, so that the plan is never in memory as a whole."""
        stream = file_stream(self.trt, file)
        is_built = self._builder.build_serialized_network_to_stream(
            self._network, self.config, stream
        )
        for error in (stream.error, self.log.interrupt):
            if error is not None:
                raise error
        if not is_built:
            raise EngineBuildError(
                f"{self.trt.__name__} {self.trt.__version__} cannot build {self.graph.name}: "
                f"{self.log.complaint()}"
            )


_logs: dict[int, Any] = {}  # by id of the package


def collect_log(trt: Any) -> Any:
    """Get the logger of `trt`, which collects errors; warnings go to Python's log.

    There is one per package for the life of the process. The package keeps a pointer to the first
    logger without owning it, and hangs or crashes when that logger is deleted.
    """
    if id(trt) not in _logs:
        _logs[id(trt)] = _new_log(trt)
    log = _logs[id(trt)]
    log.errors.clear()
    log.interrupt = None
    return log


def _new_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.interrupt: KeyboardInterrupt | None = None

        def log(self, severity: Any, message: str) -> None:
            try:
                self._keep(severity, message)
            except KeyboardInterrupt as error:  # C++ would drop it
                self.interrupt = error

        def _keep(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message)
            elif severity.name == "WARNING":
                logger.info(message)

        def complaint(self) -> str:
            return one_line(self.errors) or "it gave no reason"

    return Log()


def file_stream(trt: Any, file: BinaryIO) -> Any:
    """Make a writer for `trt` that keeps exceptions in `error`, as C++ cannot pass them on."""

    class Stream(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: BaseException | None = None

        def write(self, data: bytes) -> int:
            if self.error is not None:
                return 0
            try:
                return file.write(data)
            except BaseException as error:  # Ctrl-C too: an incomplete plan is useless
                self.error = error
                return 0

    return Stream()


def one_line(messages: list[str]) -> str:
    text = " ".join("; ".join(dict.fromkeys(messages)).split())
    return text if len(text) <= LINE else f"{text[:LINE]} ..."


def check_complete(graph: Path) -> None:
    """Raise BundleError where a graph or its weights are cut short; not every parser notices."""
    import onnx

    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception as error:  # an error of protobuf or of the system
        raise BundleError(f"{graph} cannot be read: {one_line([str(error)])}") from error
    if not model.graph.output:
        raise BundleError(f"{graph} holds no network: it was cut short, export it again")
    opset = max((x.version for x in model.opset_import if not x.domain), default=0)
    if opset < OPSET:
        raise BundleError(
            f"{graph} has opset {opset}, attention is a layer from {OPSET} on: export it again"
        )
    ends: dict[Path, int] = {}
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            file = graph.parent / place["location"]
            end = int(place.get("offset", 0)) + int(place.get("length", 0))
            ends[file] = max(end, ends.get(file, 0))
    for file, end in ends.items():
        size = file.stat().st_size if file.is_file() else 0
        if size < end:
            raise BundleError(
                f"{file} has {size} bytes, {graph.name} needs {end}: it was cut short, "
                "export it again"
            )


def allow_decomposition(trt: Any, network: Any) -> None:
    """Allow attention without a fused kernel to be built from matrix products and a softmax."""
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type != trt.LayerType.ATTENTION_INPUT:
            continue
        query = layer.get_input(0)
        if query.shape[-1] > FUSED_HEAD or query.dtype == trt.DataType.FLOAT:
            layer.__class__ = trt.IAttentionInputLayer  # the bindings return the base class
            layer.attention.decomposable = True


# -- contract --------------------------------------------------------------------------------------


def contract_ports(spec: NetworkSpec, sizes: Mapping[str, int]) -> list[TensorInfo]:
    """List every tensor of the contract, by name."""
    return _sorted(
        TensorInfo(name=s.name, shape=s.shape(sizes), dtype=s.dtype)
        for s in spec.inputs + spec.outputs
    )


def network_ports(network: Any) -> list[TensorInfo]:
    """List every input and output of a network definition, by name."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return _sorted(_port(t.name, t.shape, t.dtype) for t in inputs + outputs)


def engine_ports(trt: Any, log: Any, plan: Path) -> list[TensorInfo]:
    """List every input and output of an engine, by name; needs the GPU it was built for."""
    engine = trt.Runtime(log).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise EngineBuildError(f"{plan.name} was built, but cannot be loaded: {log.complaint()}")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return _sorted(_port(n, engine.get_tensor_shape(n), engine.get_tensor_dtype(n)) for n in names)


def check_ports(file: Path, found: list[TensorInfo], expected: list[TensorInfo]) -> None:
    """Compare tensors; ContractError names each one that differs."""
    differences = [
        f"{_shown(a)} instead of {_shown(b)}" for a, b in zip_longest(found, expected) if a != b
    ]
    if differences:
        raise ContractError(f"{file.name} has {', '.join(differences)}")


def _sorted(ports: Iterable[TensorInfo]) -> list[TensorInfo]:
    return sorted(ports, key=lambda port: port.name)


def _port(name: str, shape: Any, dtype: Any) -> TensorInfo:
    return TensorInfo(
        name=name, shape=tuple(shape), dtype=DTYPES.get(dtype.name, dtype.name.lower())
    )


def _shown(port: TensorInfo | None) -> str:
    return f"{port.name} {port.shape} {port.dtype}" if port else "nothing"
