"""The graph while it is built: what is simplified, shared and removed."""

from __future__ import annotations

import torch

from venhancer_export.onnx_graph.graph import Graph, Value

HALF = torch.float16


def graph_with_input(*shape: int) -> tuple[Graph, Value]:
    graph = Graph()
    x = Value("x", shape, HALF)
    graph.inputs.append(x)
    return graph, x


def relu(graph: Graph, x: Value) -> Value:
    return graph.add("Relu", x, shape=x.shape, dtype=x.dtype)


def test_splitting_and_merging_heads_leaves_nothing() -> None:
    """b l (n c) -> b n l c -> b l (n c) is the tensor itself."""
    graph, x = graph_with_input(2, 7, 12)

    heads = graph.permute(graph.reshape(x, (2, 7, 3, 4)), (0, 2, 1, 3))
    again = graph.reshape(graph.permute(heads, (0, 2, 1, 3)), (2, 7, 12))

    assert again is x


def test_transposes_compose() -> None:
    """Two transposes in a row become one; one that moves nothing in memory becomes a reshape."""
    graph, x = graph_with_input(2, 3, 4)

    twice = graph.permute(graph.permute(x, (1, 0, 2)), (2, 0, 1))
    assert twice.producer is not None
    assert twice.producer.inputs == [x]
    assert twice.producer.attributes["perm"] == [2, 1, 0]

    graph, y = graph_with_input(2, 1, 4)
    moved = graph.permute(y, (1, 0, 2))
    assert moved.producer is not None
    assert moved.producer.op == "Reshape"


def test_equal_nodes_are_made_once() -> None:
    """The same operator on the same values is one node; another attribute makes another node."""
    graph, x = graph_with_input(2, 3)

    assert relu(graph, x) is relu(graph, x)
    rows = graph.add("Softmax", x, shape=x.shape, dtype=x.dtype, axis=0)
    columns = graph.add("Softmax", x, shape=x.shape, dtype=x.dtype, axis=1)
    assert rows is not columns


def test_constants_are_kept_apart_by_type() -> None:
    """1 in float16 is another constant than 1 in float32; equal constants are stored once."""
    graph = Graph()
    one = torch.ones(())

    assert graph.constant(one) is graph.constant(one.clone())
    assert graph.constant(one) is not graph.constant(one.half())
    assert graph.constant([1, 2]).dtype == torch.int64


def test_what_leads_nowhere_is_dropped() -> None:
    """Nodes, weights and constants without use are dropped; outputs have the contract's names."""
    graph, x = graph_with_input(2, 3)
    graph.weights["unused"] = Value("unused", (3,), HALF)
    relu(graph, relu(graph, x))
    graph.constant([5])

    graph.finish([x, x], ["a", "b"])

    assert graph.operators() == {"Identity": 2}
    assert [out.name for out in graph.outputs] == ["a", "b"]
    assert not graph.weights
    assert not graph.constants
