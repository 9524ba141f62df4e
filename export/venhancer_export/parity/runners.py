"""Ways to run a network: PyTorch, ONNX Runtime and TensorRT, as functions of one type."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from venhancer.bundle.static_networks import Inputs, NetworkFunction
from venhancer.contract import NetworkSpec
from venhancer.errors import BundleError
from venhancer_export.onnx_graph.networks import Network

Runs = Mapping[str, NetworkFunction]  # by name; each takes the inputs it needs, in any precision
NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def pytorch_run(network: Network, device: str) -> NetworkFunction:
    """Make the function of a network with its weights on `device`; results are on the CPU."""

    @torch.inference_mode()
    def run(inputs: Inputs) -> dict[str, Tensor]:
        given = {
            spec.name: inputs[spec.name].to(device, getattr(torch, spec.dtype))
            for spec in network.spec.inputs
        }
        outputs = network.function(**given)
        return {spec.name: x.cpu() for spec, x in zip(network.spec.outputs, outputs, strict=True)}

    return run


def onnx_run(path: Path) -> NetworkFunction:
    """Make the function of a graph on the CPU, without ONNX Runtime's optimisations.

    It runs node by node as in the file. The session takes half the time, and is closer to the file:
    the optimisations keep float32 between float16 nodes. BundleError for a graph that cannot be
    loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no other common base
        reason = str(error).splitlines()[0][:200]
        raise BundleError(f"ONNX Runtime cannot load {path}: {reason}") from error
    names = [port.name for port in session.get_outputs()]

    def run(inputs: Inputs) -> dict[str, Tensor]:
        given = {
            port.name: inputs[port.name].contiguous().numpy().astype(NUMPY[port.type])
            for port in session.get_inputs()
        }
        outputs = map(torch.from_numpy, session.run(names, given))
        return dict(zip(names, outputs, strict=True))

    return run


@contextmanager
def engine_runs(
    plans: Mapping[str, Path], specs: Mapping[str, NetworkSpec], builder: str
) -> Iterator[Runs]:
    """Load plans on the first GPU for the `with` block; builder: tensorrt or tensorrt-rtx."""
    if builder == "tensorrt-rtx":
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read when polygraphy is imported
    from polygraphy.backend.common import BytesFromPath
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    with ExitStack() as stack:
        runs = {}
        for name, plan in plans.items():
            runner = TrtRunner(EngineFromBytes(BytesFromPath(str(plan))))
            runs[name] = _engine_run(stack.enter_context(runner), specs[name])
        yield runs


def _engine_run(runner: Any, spec: NetworkSpec) -> NetworkFunction:
    def run(inputs: Inputs) -> dict[str, Tensor]:
        given = {
            tensor.name: inputs[tensor.name].contiguous().to(getattr(torch, tensor.dtype))
            for tensor in spec.inputs
        }
        # the runner reuses its own memory in its next call
        return {name: x.clone() for name, x in runner.infer(given).items()}

    return run
