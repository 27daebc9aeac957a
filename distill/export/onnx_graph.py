"""The graph of an ONNX file: its layers, what leads to an output, what comes first and last."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

EMBEDDING = "embedding"  # an output: pooled features, which the last layer makes logits of
LAYERS = ("Conv", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip")  # which quantising the output of a layer makes superfluous


def is_layer(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether a node multiplies by weights."""
    return node.op_type in LAYERS and any(node.input[1] == w.name for w in graph.initializer)


def leading_to(graph: onnx.GraphProto, tensors: Iterable[str]) -> set[str]:
    """Names of these tensors and of all that they are computed from."""
    needed = set(tensors)
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
    return needed


def drop_unused(graph: onnx.GraphProto) -> None:
    """Removes constants that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def inner_nodes(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes from the first layers to the last on the way to `prob`, in order.

    Normalisation comes before them; softmax, sigmoid and the class activation map stay outside. An
    activation right after the last layer belongs to it.
    """
    to_prob = leading_to(graph, ["prob"])
    layers = [n for n in graph.node if is_layer(graph, n) and n.output[0] in to_prob]
    to_layers = leading_to(graph, [layer.input[0] for layer in layers])
    names = {layer.name for layer in layers}
    inner, after = list[str](), set[str]()
    for node in graph.node:
        follows = bool(after & set(node.input))
        between = follows and bool(to_layers & set(node.output))
        activates = follows and node.op_type in ACTIVATIONS and node.output[0] in to_prob
        if node.name in names or between or activates:
            inner.append(node.name)
            after |= set(node.output)
    return inner


def order_layers(graph: onnx.GraphProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the layers among the inner nodes, and of those at either end.

    An end is a layer that no other one comes before, or that leads to no other one.
    """
    inner = inner_nodes(graph)
    layers = [node for node in graph.node if node.name in inner and is_layer(graph, node)]
    needed = [leading_to(graph, [layer.input[0]]) for layer in layers]
    outputs = {layer.output[0] for layer in layers}
    ends = [
        layer.name
        for layer, before in zip(layers, needed, strict=True)
        if not outputs & before or not any(layer.output[0] in other for other in needed)
    ]
    return tuple(layer.name for layer in layers), tuple(ends)
