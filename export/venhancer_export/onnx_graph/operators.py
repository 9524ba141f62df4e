"""Translation of torch functions to ONNX, opset 23. `trace.py` looks functions up in `TABLE`.

An entry takes the graph, (shape, dtype) of every result, and the call's arguments, with graph
values instead of tensors. It returns a value for every result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from venhancer_export.onnx_graph.graph import Graph, Value

Results = Sequence[tuple[tuple[int, ...], torch.dtype]]
Operator = Callable[..., Sequence[Value]]
TABLE: dict[Any, Operator] = {}


def _is(*functions: Any) -> Callable[[Operator], Operator]:
    def enter(operator: Operator) -> Operator:
        TABLE.update(dict.fromkeys(functions, operator))
        return operator

    return enter


def _operand(graph: Graph, x: Any, dtype: torch.dtype) -> Value:
    """Convert a value or a number to a value of this type."""
    if isinstance(x, Value):
        return graph.cast(x, dtype)
    return graph.constant(torch.tensor(x, dtype=dtype))


def _common_type(*operands: Any) -> torch.dtype:
    """Find the type that torch computes in."""
    like = [
        torch.empty((1,) * len(x.shape), dtype=x.dtype, device="meta")
        if isinstance(x, Value)
        else x
        for x in operands
    ]
    return torch.result_type(*like)


# -- arithmetic ------------------------------------------------------------------------------------


def _binary(op: str, *, is_reversed: bool = False) -> Operator:
    def operator(graph: Graph, results: Results, a: Any, b: Any) -> Sequence[Value]:
        [(shape, dtype)] = results
        within = _common_type(a, b)
        left, right = (_operand(graph, x, within) for x in ((b, a) if is_reversed else (a, b)))
        return [graph.add(op, left, right, shape=shape, dtype=dtype)]

    return operator


_BINARY: dict[str, tuple[Any, ...]] = {
    "Add": (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
    "Sub": (torch.sub, Tensor.sub, Tensor.__sub__),
    "Mul": (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
    "Div": (torch.div, Tensor.div, Tensor.__truediv__),
    "Pow": (torch.pow, Tensor.pow, Tensor.__pow__),
    "LessOrEqual": (torch.le, Tensor.le, Tensor.__le__),
    "GreaterOrEqual": (torch.ge, Tensor.ge, Tensor.__ge__),
    "Less": (torch.lt, Tensor.lt, Tensor.__lt__),
    "Greater": (torch.gt, Tensor.gt, Tensor.__gt__),
    "Equal": (torch.eq, Tensor.eq, Tensor.__eq__),
    "And": (Tensor.__and__, torch.logical_and),
}
for _name, _functions in _BINARY.items():
    _is(*_functions)(_binary(_name))
_is(Tensor.__rsub__, torch.rsub)(_binary("Sub", is_reversed=True))
_is(Tensor.__rtruediv__)(_binary("Div", is_reversed=True))


def _unary(op: str) -> Operator:
    def operator(graph: Graph, results: Results, x: Value, **_: Any) -> Sequence[Value]:
        return [graph.add(op, x, shape=x.shape, dtype=x.dtype)]

    return operator


_UNARY: dict[str, tuple[Any, ...]] = {
    "Cos": (torch.cos, Tensor.cos),
    "Sin": (torch.sin, Tensor.sin),
    "Exp": (torch.exp, Tensor.exp),
    "Sqrt": (torch.sqrt, Tensor.sqrt),
    "Neg": (torch.neg, Tensor.neg, Tensor.__neg__),
    "Not": (torch.logical_not, Tensor.__invert__),
    "Sigmoid": (torch.sigmoid, Tensor.sigmoid, F.sigmoid),
    "Tanh": (torch.tanh, Tensor.tanh, F.tanh),
    "Relu": (torch.relu, Tensor.relu, F.relu),
}
for _name, _functions in _UNARY.items():
    _is(*_functions)(_unary(_name))


@_is(torch.round, Tensor.round)
def _round(graph: Graph, results: Results, x: Value) -> Sequence[Value]:
    if not x.dtype.is_floating_point:
        return [x]
    return [graph.add("Round", x, shape=x.shape, dtype=x.dtype)]


@_is(torch.clamp, Tensor.clamp)
def _clamp(
    graph: Graph, results: Results, x: Value, min: Any = None, max: Any = None
) -> Sequence[Value]:
    limits = [None if limit is None else _operand(graph, limit, x.dtype) for limit in (min, max)]
    return [graph.add("Clip", x, *limits, shape=x.shape, dtype=x.dtype)]


@_is(F.silu)
def _silu(graph: Graph, results: Results, x: Value, inplace: bool = False) -> Sequence[Value]:
    gate = graph.add("Sigmoid", x, shape=x.shape, dtype=x.dtype)
    return [graph.add("Mul", x, gate, shape=x.shape, dtype=x.dtype)]


@_is(F.gelu)
def _gelu(graph: Graph, results: Results, x: Value, approximate: str = "none") -> Sequence[Value]:
    return [graph.add("Gelu", x, shape=x.shape, dtype=x.dtype, approximate=approximate)]


@_is(torch.where)
def _where(graph: Graph, results: Results, where: Value, a: Any, b: Any) -> Sequence[Value]:
    [(shape, dtype)] = results
    operands = (_operand(graph, x, dtype) for x in (a, b))
    return [graph.add("Where", where, *operands, shape=shape, dtype=dtype)]


def _reduction(op: str) -> Operator:
    def operator(
        graph: Graph, results: Results, x: Value, dim: int, keepdim: bool = False
    ) -> Sequence[Value]:
        [(shape, dtype)] = results
        axes = graph.constant([dim % len(x.shape)])
        return [graph.add(op, x, axes, shape=shape, dtype=dtype, keepdims=int(keepdim))]

    return operator


_is(torch.amax, Tensor.amax)(_reduction("ReduceMax"))
_is(torch.amin, Tensor.amin)(_reduction("ReduceMin"))


# -- types and axes: most leave no node ------------------------------------------------------------


@_is(
    Tensor.to, Tensor.float, Tensor.half, Tensor.long, Tensor.int, Tensor.bool, Tensor.type_as,
    Tensor.contiguous, Tensor.clone, Tensor.detach, F.dropout,
)  # fmt: skip
def _cast(graph: Graph, results: Results, x: Value, *_: Any, **__: Any) -> Sequence[Value]:
    return [graph.cast(x, results[0][1])]


@_is(
    torch.reshape, Tensor.reshape, Tensor.view, Tensor.flatten, torch.flatten, Tensor.unflatten,
    Tensor.squeeze, torch.squeeze, Tensor.unsqueeze, torch.unsqueeze,
)  # fmt: skip
def _reshape(graph: Graph, results: Results, x: Value, *_: Any, **__: Any) -> Sequence[Value]:
    return [graph.reshape(x, results[0][0])]


@_is(Tensor.expand)
def _expand(graph: Graph, results: Results, x: Value, *_: Any) -> Sequence[Value]:
    shape = results[0][0]
    return [graph.expand(graph.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape), shape)]


@_is(torch.permute, Tensor.permute)
def _permute(graph: Graph, results: Results, x: Value, *order: Any) -> Sequence[Value]:
    axes = order[0] if isinstance(order[0], (tuple, list)) else order
    return [graph.permute(x, [axis % len(x.shape) for axis in axes])]


@_is(torch.transpose, Tensor.transpose)
def _transpose(graph: Graph, results: Results, x: Value, a: int, b: int) -> Sequence[Value]:
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return [graph.permute(x, order)]


@_is(torch.cat)
def _cat(graph: Graph, results: Results, tensors: Sequence[Value], dim: int = 0) -> Sequence[Value]:
    [(shape, dtype)] = results
    parts = [graph.cast(x, dtype) for x in tensors]
    return [graph.add("Concat", *parts, shape=shape, dtype=dtype, axis=dim % len(shape))]


@_is(torch.chunk, Tensor.chunk, torch.split, Tensor.split)
def _split(graph: Graph, results: Results, x: Value, _: Any, dim: int = 0) -> Sequence[Value]:
    axis = dim % len(x.shape)
    sizes = graph.constant([shape[axis] for shape, _ in results])
    return graph.add_many("Split", x, sizes, outputs=results, axis=axis)


@_is(Tensor.__getitem__)
def _index(graph: Graph, results: Results, x: Value, index: Any) -> Sequence[Value]:
    """Index by numbers, slices, None and `...`; or by a tensor of indices on the first axis."""
    shape = results[0][0]
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) > 1 and any(isinstance(part, Value) for part in parts):
        return NotImplemented
    if isinstance(parts[0], Value):
        rows = graph.cast(parts[0], torch.int64)
        return [graph.add("Gather", x, rows, shape=shape, dtype=x.dtype, axis=0)]
    return [graph.reshape(_slices(graph, x, _spelled_out(parts, len(x.shape))), shape)]


def _spelled_out(parts: Sequence[Any], axes: int) -> list[Any]:
    """Give one number or slice per axis: drop None, which only adds axes, and expand `...`."""
    kept = [part for part in parts if part is not None]
    rest = [slice(None)] * (axes - sum(part is not Ellipsis for part in kept))
    if Ellipsis not in kept:
        return [*kept, *rest]
    at = kept.index(Ellipsis)
    return [*kept[:at], *rest, *kept[at + 1 :]]


def _slices(graph: Graph, x: Value, parts: Sequence[Any]) -> Value:
    """Slice x along its axes; for a number, the axis is kept with length one."""
    ranges = [slice(part, part + 1 or None) if isinstance(part, int) else part for part in parts]
    cuts = [r.indices(size) for r, size in zip(ranges, x.shape, strict=True)]
    axes = [i for i, cut in enumerate(cuts) if cut != (0, x.shape[i], 1)]
    if not axes:
        return x
    shape = [len(range(*cut)) for cut in cuts]
    bounds = [graph.constant([cuts[axis][k] for axis in axes]) for k in range(3)]
    starts, stops, steps = bounds
    where = graph.constant(axes)
    return graph.add("Slice", x, starts, stops, where, steps, shape=shape, dtype=x.dtype)


@_is(F.pad)
def _pad(
    graph: Graph,
    results: Results,
    x: Value,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Sequence[Value]:
    assert mode == "constant", mode
    [(shape, dtype)] = results
    untouched = [(0, 0)] * (len(shape) - len(pad) // 2)
    sides = [*untouched, *list(zip(pad[::2], pad[1::2], strict=True))[::-1]]
    pads = graph.constant([before for before, _ in sides] + [after for _, after in sides])
    filling = _operand(graph, value or 0.0, dtype)
    return [graph.add("Pad", x, pads, filling, shape=shape, dtype=dtype, mode="constant")]


# -- layers ----------------------------------------------------------------------------------------


@_is(F.linear)
def _linear(
    graph: Graph, results: Results, x: Value, weight: Value, bias: Value | None = None
) -> Sequence[Value]:
    """Translate a linear layer; its weight is stored as (in, out), see `weights_file.py`."""
    [(shape, dtype)] = results
    stored = graph.weights[weight.name]
    stored.shape = (x.shape[-1], shape[-1])
    out = graph.add("MatMul", x, stored, shape=shape, dtype=dtype)
    return [out if bias is None else graph.add("Add", out, bias, shape=shape, dtype=dtype)]


@_is(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)
def _matmul(graph: Graph, results: Results, a: Value, b: Value) -> Sequence[Value]:
    [(shape, dtype)] = results
    return [graph.add("MatMul", a, b, shape=shape, dtype=dtype)]


def _each(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


@_is(F.conv1d, F.conv2d, F.conv3d)
def _conv(
    graph: Graph,
    results: Results,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Sequence[Value]:
    [(shape, dtype)] = results
    axes = len(shape) - 2
    attributes = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": _each(stride, axes),
        "pads": _each(padding, axes) * 2,
        "dilations": _each(dilation, axes),
        "group": groups,
    }
    return [graph.add("Conv", x, weight, bias, shape=shape, dtype=dtype, **attributes)]


@_is(F.group_norm)
def _group_norm(
    graph: Graph,
    results: Results,
    x: Value,
    num_groups: int,
    weight: Value,
    bias: Value,
    eps: float = 1e-5,
) -> Sequence[Value]:
    """Translate GroupNorm; sums are in float32 (stash_type), as in torch on a GPU."""
    attributes = {"num_groups": num_groups, "epsilon": eps, "stash_type": 1}
    return [
        graph.add("GroupNormalization", x, weight, bias, shape=x.shape, dtype=x.dtype, **attributes)
    ]


@_is(F.layer_norm)
def _layer_norm(
    graph: Graph,
    results: Results,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Value,
    bias: Value,
    eps: float = 1e-5,
) -> Sequence[Value]:
    attributes = {"axis": -len(normalized_shape), "epsilon": eps, "stash_type": 1}
    return [
        graph.add("LayerNormalization", x, weight, bias, shape=x.shape, dtype=x.dtype, **attributes)
    ]


@_is(F.scaled_dot_product_attention)
def _attention(
    graph: Graph,
    results: Results,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Sequence[Value]:
    """Take query, key, value b n l c as tokens b l (n c): transposes around the heads vanish."""
    b, n, length, c = query.shape
    tokens = []
    for x in (query, key, value):
        tokens.append(graph.reshape(graph.permute(x, (0, 2, 1, 3)), (b, x.shape[2], n * c)))
    out = graph.add(
        "Attention", *tokens, *([attn_mask] if attn_mask else []),
        shape=(b, length, n * c), dtype=query.dtype, q_num_heads=n, kv_num_heads=n,
        is_causal=int(is_causal), scale=1 / math.sqrt(c) if scale is None else float(scale),
    )  # fmt: skip
    return [graph.permute(graph.reshape(out, (b, length, n, c)), (0, 2, 1, 3))]


@_is(F.interpolate)
def _enlarge(
    graph: Graph,
    results: Results,
    x: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    **_: Any,
) -> Sequence[Value]:
    assert mode == "nearest", mode
    [(shape, dtype)] = results
    factors = [float(after / before) for after, before in zip(shape, x.shape, strict=True)]
    attributes = {
        "mode": "nearest",
        "nearest_mode": "floor",
        "coordinate_transformation_mode": "asymmetric",
    }
    scales = graph.constant(torch.tensor(factors))
    return [graph.add("Resize", x, None, scales, shape=shape, dtype=dtype, **attributes)]


@_is(F.embedding)
def _embedding(
    graph: Graph, results: Results, ids: Value, weight: Value, *_: Any, **__: Any
) -> Sequence[Value]:
    [(shape, dtype)] = results
    rows = graph.cast(ids, torch.int64)
    return [graph.add("Gather", weight, rows, shape=shape, dtype=dtype, axis=0)]
