"""Writing of a graph as an ONNX model whose weights are in a file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

import venhancer
from venhancer.contract import OPSET
from venhancer_export.onnx_graph.graph import Graph, Node, Value
from venhancer_export.onnx_graph.weights_file import Stored

IR_VERSION = 11  # the first with opset 23
TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.bool: TensorProto.BOOL,
}


def write_onnx(path: Path, graph: Graph, weights: str, places: Mapping[str, Stored]) -> None:
    """Write `graph` to `path`; `weights` is the name of the file that holds the tensors."""
    initializers = [_external(name, weights, places[name]) for name in graph.weights]
    initializers += [_constant(value.name, data) for value, data in graph.constants.values()]
    body = helper.make_graph(
        [_node(node) for node in graph.nodes],
        "venhancer",
        [_described(value) for value in graph.inputs],
        [_described(value) for value in graph.outputs],
        initializers,
    )
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="venhancer",
        producer_version=venhancer.__version__,
        ir_version=IR_VERSION,
    )
    for name, value in graph.weights.items():
        assert value.shape == places[name].shape, name
    onnx.save_model(model, str(path))


def _node(node: Node) -> onnx.NodeProto:
    return helper.make_node(
        node.op,
        [value.name if value else "" for value in node.inputs],
        [value.name for value in node.outputs],
        name=node.name,
        **{key: _attribute(x) for key, x in node.attributes.items()},
    )


def _attribute(x: Any) -> Any:
    return TYPES[x] if isinstance(x, torch.dtype) else x


def _described(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, TYPES[value.dtype], value.shape)


def _external(name: str, location: str, place: Stored) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TYPES[place.dtype], dims=place.shape)
    tensor.data_location = TensorProto.EXTERNAL
    where = {"location": location, "offset": place.offset, "length": place.length}
    for key, x in where.items():
        tensor.external_data.add(key=key, value=str(x))
    return tensor


def _constant(name: str, data: Tensor) -> TensorProto:
    raw = data.reshape(-1).view(torch.uint8) if data.numel() else data
    return TensorProto(
        name=name, data_type=TYPES[data.dtype], dims=data.shape, raw_data=raw.numpy().tobytes()
    )
