"""Network run by TensorRT or TensorRT-RTX, on PyTorch's tensors and its current stream."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from venhancer.bundle.manifest import Entry, TensorInfo
from venhancer.bundle.static_networks import Inputs
from venhancer.contract import Shape
from venhancer.device import choose_device, says_no_memory
from venhancer.errors import BundleError, DeviceError, OptionError
from venhancer_rt.bundle_reader import Bundle
from venhancer_rt.ports import as_input, empty_output
from venhancer_rt.tensorrt_package import collect_log, require_tensorrt

ALIGNMENT = 256  # bytes, for every address that is passed to TensorRT
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64"}


def choose_engine_device(asked: str) -> str:
    """Choose CUDA; OptionError for a CPU, because engines run on GPUs only."""
    if asked == "cpu":
        raise OptionError(
            "--device cpu: the bundle holds engines, which run on a GPU: leave it out, "
            "or build the bundle with `--builder onnx`"
        )
    return choose_device("cuda")


def open_engines(bundle: Bundle, shape: Shape, device: str) -> dict[str, Engine]:
    """Load every network of the bundle at one shape, by its name.

    They share one scratch memory, as large as the largest network needs. So no two of them may run
    at the same time: call them on one stream, or let one stream wait for the other.
    """
    trt = require_tensorrt(bundle.manifest.builder)
    again = f"run `{bundle.manifest.command(bundle.folder)}`"
    engines = {
        name: Engine(trt, bundle.plan(entry), entry, device, again)
        for name, entry in bundle.entries(shape).items()
    }
    size = max(engine.scratch_bytes for engine in engines.values())
    scratch = torch.empty(size, dtype=torch.uint8, device=device)
    for engine in engines.values():
        engine.compute_in(scratch)
    return engines


class Engine:
    """Network as `StaticDenoiser` calls it: inputs by name -> outputs by name, on `device`.

    A call queues work on PyTorch's current stream and does not wait for it. After a first call it
    can be captured in a CUDA graph, if its inputs are on the device. On the default stream TensorRT
    itself waits for the device at times; use another stream where that matters.
    """

    def __init__(self, trt: Any, path: Path, entry: Entry, device: str, again: str) -> None:
        """Load an engine; BundleError if it is for another machine; `again` says how to rebuild."""
        self.path = path
        self.entry = entry
        self.device = device
        self._title = f"{trt.__name__} {trt.__version__}"
        self._again = again
        self._log = collect_log(trt)
        self._engine = self._load(trt)
        self._check(trt)
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context = self._engine.create_execution_context(strategy)
        if self._context is None:
            raise self._refusal()
        self._log.start()
        self._scratch: Tensor | None = None  # kept alive: the context holds only its address

    @property
    def scratch_bytes(self) -> int:
        """Bytes of memory that it computes in, besides its weights, inputs and outputs."""
        return int(self._engine.device_memory_size_v2)

    def compute_in(self, scratch: Tensor) -> None:
        """Set the memory to compute in, `scratch_bytes` or more; needed before the first call."""
        assert scratch.nbytes >= self.scratch_bytes
        self._context.set_device_memory(scratch.data_ptr(), scratch.nbytes)
        self._scratch = scratch

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        taken = {
            port.name: _aligned(as_input(inputs[port.name], port, self.device, self.path.name))
            for port in self.entry.inputs
        }
        made = {port.name: empty_output(port, self.device) for port in self.entry.outputs}
        is_queued = all(
            self._context.set_tensor_address(name, x.data_ptr())
            for name, x in (*taken.items(), *made.items())
        ) and self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        if not is_queued:
            raise self._failure()
        return made

    def _failure(self) -> Exception:
        """Make an OutOfMemoryError if a fallback plan may help, else a DeviceError."""
        reason = self._log.take()
        kind = torch.OutOfMemoryError if says_no_memory(reason) else DeviceError
        return kind(f"{self.path}: {self._title} failed: {reason}")

    def _load(self, trt: Any) -> Any:
        """Load the file by mapping it, so that host memory holds no copy beside the GPU's.

        It stays mapped as long as the engine lives, which costs nothing.
        """
        self._log.start()
        with self.path.open("rb") as file:
            self._plan = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            runtime = trt.Runtime(self._log)
        except TypeError as error:  # raised by the bindings for a null pointer
            reason = self._log.take()
            raise DeviceError(f"{self._title} cannot start here: {reason}") from error
        engine = runtime.deserialize_cuda_engine(self._plan)
        if engine is None:
            raise self._refusal()
        return engine

    def _refusal(self) -> BundleError:
        gpus = ", ".join(engine.gpu for engine in self.entry.engines)
        return BundleError(
            f"{self.path}, built for {gpus}: {self._title} cannot load it here "
            f"({self._log.take()}): {self._again}"
        )

    def _check(self, trt: Any) -> None:
        """Raise BundleError if the engine is not as the bundle describes or lacks its weights."""
        if self._engine.get_engine_stat(trt.EngineStat.STRIPPED_WEIGHTS_SIZE) > 0:
            raise BundleError(
                f"{self.path} was built without its weights, which this version cannot put in: "
                f"{self._again}"
            )
        modes = trt.TensorIOMode
        for mode, ports in ((modes.INPUT, self.entry.inputs), (modes.OUTPUT, self.entry.outputs)):
            has, said = self._ports(mode), _sorted(ports)
            if has != said:
                raise BundleError(f"{self.path} has {has}, the bundle says {said}: {self._again}")

    def _ports(self, mode: Any) -> list[tuple[Any, ...]]:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return sorted(
            (name, tuple(engine.get_tensor_shape(name)), _dtype(engine.get_tensor_dtype(name)))
            for name in names
            if engine.get_tensor_mode(name) == mode
        )


def _sorted(ports: Sequence[TensorInfo]) -> list[tuple[Any, ...]]:
    return sorted((port.name, port.shape, port.dtype) for port in ports)


def _dtype(dtype: Any) -> str:
    return DTYPES.get(dtype.name, dtype.name)


def _aligned(x: Tensor) -> Tensor:
    """Copy a tensor unless its address is aligned; a view of another tensor's may not be."""
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()
