"""What a quantised graph carries and nobody reads: zero points of 0, and the quantiser's names.

Claim: 275,606 bytes where there were 288,138, with the same answers and kernels.
Conditions: `compact` of `students/cifar10.toml`, untrained, calibrated by extremes, onnxruntime
1.32 (benchmarks/LOG.md).
"""

from __future__ import annotations

from itertools import count

import onnx
from onnx import numpy_helper

from distill.export.onnx_graph import drop_unused

ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def trim(graph: onnx.GraphProto, source: onnx.GraphProto) -> None:
    """Takes both out, in place.

    Constants of convolutions lose their zero points; those of linear layers keep them, as
    onnxruntime multiplies in float without.

    Args:
        source: The graph in float. Names of its tensors stay, and those of layers.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolved = {name for node in graph.node if node.op_type == "Conv" for name in node.input}
    for node in graph.node:
        if node.op_type not in ROUNDING:
            continue
        node.ClearField("name")
        fixed = node.input[0] in constants and node.output[0] in convolved
        if fixed and not constants[node.input[2]].any():
            del node.input[2]
    drop_unused(graph)
    _shorten(graph, {name for node in source.node for name in (*node.input, *node.output)})


def _shorten(graph: onnx.GraphProto, known: set[str]) -> None:
    """Numbers the tensors that are not known: `q0`, `q1` and so on."""
    free = (name for number in count() if (name := f"q{number}") not in known)
    tensors = [*(t.name for t in graph.initializer), *(o for n in graph.node for o in n.output)]
    short = {name: next(free) for name in tensors if name not in known}
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [short.get(name, name) for name in names]
