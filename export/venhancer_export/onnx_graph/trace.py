"""Tracing: run a network once on tensors without data, and record its operations as an ONNX graph.

Every call of a torch function on a traced tensor is looked up in `operators.TABLE`. Results that do
not depend on an input are computed at once and become constants. torch.onnx.export does the same
for any program. For our fixed shapes and few operators, this tracer takes seconds instead of
minutes (benchmarks/results/export_tiny.json), attention keeps its tokens, and weights are never
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from venhancer.contract import NetworkSpec
from venhancer_export.onnx_graph.graph import Graph, Value
from venhancer_export.onnx_graph.operators import TABLE, Operator

Function = Callable[..., tuple[Tensor, ...]]
UNKNOWN = "unknown:"
_IN_PLACE = {Tensor.__setitem__, Tensor.__iadd__, Tensor.__isub__, Tensor.__imul__, Tensor.add_}
_DEVICE = Tensor.device.__get__


class UnknownOperatorError(NotImplementedError):
    """An output depends on a torch function that has no entry in `operators.TABLE`."""


def trace(
    function: Function, module: nn.Module, spec: NetworkSpec, sizes: Mapping[str, int]
) -> Graph:
    """Trace `function`, called with the inputs of `spec` by name, at these sizes.

    module: holds the weights, on the meta device or another; they keep their names
    """
    graph = Graph()
    tracer = _Tracer(graph, module)
    inputs = {}
    for tensor in spec.inputs:
        shape, dtype = tensor.shape(sizes), getattr(torch, tensor.dtype)
        value = Value(tensor.name, shape, dtype)
        graph.inputs.append(value)
        inputs[tensor.name] = tracer.know(torch.empty(shape, dtype=dtype, device="meta"), value)
    with torch.no_grad(), scopes(graph, module), tracer:
        outputs = function(**inputs)
    values = [tracer.value_of(out) for out in outputs]
    for value, expected in zip(values, spec.outputs, strict=True):
        found = (value.shape, value.dtype)
        wanted = (expected.shape(sizes), getattr(torch, expected.dtype))
        assert found == wanted, f"{spec.name}: {expected.name} is {found}, not {wanted}"
    graph.finish(values, [tensor.name for tensor in spec.outputs])
    unknown = [node.name for node in graph.nodes if node.op.startswith(UNKNOWN)]
    if unknown:
        raise UnknownOperatorError(", ".join(unknown))
    return graph


class _Tracer(TorchFunctionMode):
    """Tracer that maps tensors to values of the graph."""

    def __init__(self, graph: Graph, module: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.known: dict[int, tuple[Tensor, Value]] = {}  # by id; the tensor is kept alive
        for name, weight in _weights(module):
            value = Value(name, tuple(weight.shape), weight.dtype)
            graph.weights[name] = value
            self.know(weight, value)

    def know(self, tensor: Tensor, value: Value) -> Tensor:
        self.known[id(tensor)] = (tensor, value)
        return tensor

    def value_of(self, tensor: Tensor) -> Value:
        """Find the value of a tensor; a tensor without one becomes a constant."""
        found = self.known.get(id(tensor))
        return found[1] if found else self.graph.constant(tensor)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _DEVICE:
            return torch.device("cpu")  # where constants are computed
        leaves = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if not any(id(x) in self.known for x in leaves):
            return func(*args, **kwargs)
        if func in _IN_PLACE:
            raise UnknownOperatorError(f"{func.__name__} changes a tensor in place")
        result = func(*tree_map(_shadow, args), **tree_map(_shadow, kwargs))
        shadows = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        if not shadows:
            return result
        self._write_down(func, args, kwargs, shadows)
        return result

    def _write_down(self, func: Any, args: Any, kwargs: Any, results: Iterable[Tensor]) -> None:
        args, kwargs = tree_map(self._given, args), tree_map(self._given, kwargs)
        results = list(results)
        outputs = [(tuple(x.shape), x.dtype) for x in results]
        operator: Operator = TABLE.get(func, _unknown)
        values = operator(self.graph, outputs, *args, **kwargs)
        if values is NotImplemented:  # it is an error only if an output needs it
            inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Value)]
            name = f"{UNKNOWN}{getattr(func, '__name__', func)}"
            values = self.graph.add_many(name, *inputs, outputs=outputs)
        for result, value in zip(results, values, strict=True):
            assert (tuple(result.shape), result.dtype) == (value.shape, value.dtype), func
            self.know(result, value)

    def _given(self, x: Any) -> Any:
        return self.value_of(x) if isinstance(x, Tensor) else x


def _unknown(*_: Any, **__: Any) -> Any:
    return NotImplemented


def _shadow(x: Any) -> Any:
    """Replace a tensor by one without data, which is enough to compute shapes."""
    if isinstance(x, torch.device):
        return torch.device("meta")
    return x if not isinstance(x, Tensor) or x.is_meta else x.detach().to("meta")


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


class Scoped(Protocol):
    """Interface of an object that is told which module is running."""

    scope: str  # its dotted name


@contextmanager
def scopes(told: Scoped, module: nn.Module) -> Iterator[None]:
    """Keep `told.scope` up to date while `module` runs."""
    names = {id(m): name for name, m in module.named_modules()}
    outer: list[str] = []

    def enter(entered: nn.Module, _: Any) -> None:
        outer.append(told.scope)
        told.scope = names.get(id(entered), told.scope)

    def leave(*_: Any) -> None:
        told.scope = outer.pop()

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
