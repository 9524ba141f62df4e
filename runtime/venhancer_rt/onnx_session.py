"""Network run by ONNX Runtime, on PyTorch's tensors, without copies to other memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from venhancer.bundle.manifest import Entry, TensorInfo
from venhancer.bundle.static_networks import Inputs
from venhancer.device import choose_device
from venhancer.errors import BundleError, DeviceError
from venhancer_rt.ports import as_input, empty_output

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int64": "tensor(int64)"}
SILENT = 4  # log only what ends the process; the session raises all other errors


def require_onnxruntime() -> Any:
    """Import the package; DeviceError says how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            "onnxruntime is not installed: run `pip install 'venhancer[onnx]'`, "
            "or with a GPU `pip install 'venhancer[onnx-gpu]'`"
        ) from error
    return onnxruntime


def choose_onnx_device(asked: str) -> str:
    """Choose as `choose_device` does; `auto` takes CUDA only if ONNX Runtime has it too."""
    device = choose_device(asked)
    if device == "cpu" or CUDA in require_onnxruntime().get_available_providers():
        return device
    if asked == "auto":
        return "cpu"
    raise DeviceError(
        "--device cuda: this onnxruntime has no CUDA: run `pip install 'venhancer[onnx-gpu]'` "
        "in its place, or take --device cpu"
    )


class OnnxSession:
    """Network as `StaticDenoiser` calls it: inputs by name -> outputs by name, on `device`."""

    def __init__(self, path: Path, entry: Entry, device: str) -> None:
        self.path = path
        self.entry = entry
        self.device = device
        self.session = _open(path, device)
        _check(path, self.session.get_inputs(), entry.inputs)
        _check(path, self.session.get_outputs(), entry.outputs)

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        taken = {
            port.name: as_input(inputs[port.name], port, self.device, self.path.name)
            for port in self.entry.inputs
        }
        made = {port.name: empty_output(port, self.device) for port in self.entry.outputs}
        binding = self.session.io_binding()
        for name, x in taken.items():
            binding.bind_input(name, **self._place(x))
        for name, x in made.items():
            binding.bind_output(name, **self._place(x))
        if self.device == "cuda":  # the session's own stream does not wait for this one
            torch.cuda.current_stream().synchronize()
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return made

    def _place(self, x: Tensor) -> dict[str, Any]:
        return {
            "device_type": self.device,
            "device_id": x.device.index or 0,
            "element_type": getattr(np, str(x.dtype).removeprefix("torch.")),
            "shape": list(x.shape),
            "buffer_ptr": x.data_ptr(),
        }


def _open(path: Path, device: str) -> Any:
    onnxruntime = require_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = SILENT
    providers = [CUDA, CPU] if device == "cuda" else [CPU]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its errors have no other base class in common
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BundleError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({reason}): "
            "build the bundle again, or take another onnxruntime"
        ) from error
    if session.get_providers()[0] != providers[0]:
        raise DeviceError(
            "onnxruntime does not load its CUDA part here, cuDNN or CUDA's libraries are missing: "
            "install them, or take --device cpu"
        )
    return session


def _check(path: Path, found: Sequence[Any], ports: Sequence[TensorInfo]) -> None:
    """Raise BundleError if a graph is not as the bundle describes it."""
    has = [(x.name, tuple(x.shape), x.type) for x in found]
    said = [(port.name, port.shape, TYPES.get(port.dtype)) for port in ports]
    if has != said:
        raise BundleError(f"{path} has {has}, the bundle says {said}: build the bundle again")
