"""A static ONNX graph under construction: values, nodes, and a few rewrites.

Consecutive reshapes and consecutive transposes are merged when they are added, equal nodes are made
once, and nodes that lead to no output are dropped. So splitting tokens into attention heads and
merging them again leaves no nodes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Value:
    """A tensor of the graph; without a producer it is an input, a weight or a constant."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    producer: Node | None = None


@dataclass(slots=True, eq=False)
class Node:
    """One ONNX operator."""

    name: str
    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attributes: dict[str, Any]


@dataclass(slots=True, eq=False)
class Graph:
    """Nodes in order of execution, all shapes fixed."""

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, Value] = field(default_factory=dict)  # by name in the module
    constants: dict[str, tuple[Value, Tensor]] = field(default_factory=dict)
    scope: str = ""  # dotted name of the module being traced, for the names of nodes
    _made: dict[Any, Node] = field(default_factory=dict)

    def add(
        self,
        op: str,
        *inputs: Value | None,
        shape: Sequence[int],
        dtype: torch.dtype,
        **attributes: Any,
    ) -> Value:
        """Add a node, unless an equal one exists, and return its single output."""
        return self.add_many(op, *inputs, outputs=[(tuple(shape), dtype)], **attributes)[0]

    def add_many(
        self,
        op: str,
        *inputs: Value | None,
        outputs: Sequence[tuple[tuple[int, ...], torch.dtype]],
        **attributes: Any,
    ) -> list[Value]:
        """Add a node as `add` does, but with several outputs, each given as (shape, dtype)."""
        key = (op, tuple(map(id, inputs)), tuple(outputs), repr(sorted(attributes.items())))
        if key in self._made:
            return self._made[key].outputs
        name = f"{self.scope}/{op}_{len(self.nodes)}".lstrip("/")
        node = Node(name, op, list(inputs), [], attributes)
        for i, (shape, dtype) in enumerate(outputs):
            suffix = f":{i}" if len(outputs) > 1 else ""
            node.outputs.append(Value(name + suffix, shape, dtype, node))
        self.nodes.append(node)
        self._made[key] = node
        return node.outputs

    def constant(self, data: Tensor | Sequence[int]) -> Value:
        """Add a small tensor stored in the graph; a sequence of integers becomes int64."""
        tensor = data if isinstance(data, Tensor) else torch.tensor(data, dtype=torch.int64)
        tensor = tensor.detach().cpu().contiguous()
        key = f"{tensor.dtype}{list(tensor.shape)}{tensor.reshape(-1).tolist()}"
        if key not in self.constants:
            value = Value(f"constant_{len(self.constants)}", tuple(tensor.shape), tensor.dtype)
            self.constants[key] = (value, tensor)
        return self.constants[key][0]

    def cast(self, x: Value, dtype: torch.dtype) -> Value:
        return x if x.dtype == dtype else self.add("Cast", x, shape=x.shape, dtype=dtype, to=dtype)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Reshape x, starting from the source of a chain of reshapes."""
        while x.producer is not None and x.producer.op == "Reshape":
            source = x.producer.inputs[0]
            assert source is not None
            x = source
        if x.shape == tuple(shape):
            return x
        assert math.prod(x.shape) == math.prod(shape), (x.shape, shape)
        return self.add("Reshape", x, self.constant(list(shape)), shape=shape, dtype=x.dtype)

    def permute(self, x: Value, order: Sequence[int]) -> Value:
        """Permute the axes of x; adds no transpose where the order in memory stays."""
        shape = [x.shape[axis] for axis in order]
        if x.producer is not None and x.producer.op == "Transpose":
            before = x.producer.attributes["perm"]
            source = x.producer.inputs[0]
            assert source is not None
            return self.permute(source, [before[axis] for axis in order])
        moved = [axis for axis in order if x.shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(x, shape)
        return self.add("Transpose", x, shape=shape, dtype=x.dtype, perm=list(order))

    def expand(self, x: Value, shape: Sequence[int]) -> Value:
        if x.shape == tuple(shape):
            return x
        return self.add("Expand", x, self.constant(list(shape)), shape=shape, dtype=x.dtype)

    def finish(self, outputs: Sequence[Value], names: Sequence[str]) -> None:
        """Name the outputs, and drop nodes, weights and constants that lead to no output."""
        self._made.clear()
        for value, name in zip(outputs, names, strict=True):
            last = self.add("Identity", value, shape=value.shape, dtype=value.dtype)
            self._made.clear()  # one node per output, even if equal
            last.name = name
            self.outputs.append(last)
        wanted: set[int] = {id(value) for value in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if any(id(value) in wanted for value in node.outputs):
                kept.append(node)
                wanted.update(id(value) for value in node.inputs)
        self.nodes = kept[::-1]
        self.weights = {n: v for n, v in self.weights.items() if id(v) in wanted}
        self.constants = {k: v for k, v in self.constants.items() if id(v[0]) in wanted}

    def operators(self) -> dict[str, int]:
        """Count the nodes of each kind, the most frequent first."""
        return dict(Counter(node.op for node in self.nodes).most_common())
