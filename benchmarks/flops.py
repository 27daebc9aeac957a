"""The work in an ONNX graph: arithmetic of its convolutions and matrix products, and bytes.

Counted is what must be done even if everything between these layers is fused into them: two
operations per multiplication and addition, every weight read once per batch, and every layer's
input read and output written once per image. Elementwise operations count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Work:
    """Of one image, but for `weight_bytes`, which are of a batch.

    Attributes:
        flop: Floating-point (or integer) operations.
        weight_bytes: All constants of the file, as they are stored.
        activation_bytes: Inputs and outputs of the counted layers; behind a DequantizeLinear a
            value counts as what is stored, one byte.
    """

    flop: int
    weight_bytes: int
    activation_bytes: int

    def bytes_per_image(self, batch_size: int) -> float:
        """Bytes moved per image at a batch size."""
        return self.activation_bytes + self.weight_bytes / batch_size


def count_work(file: Path) -> Work | None:
    """The work in a file; None where onnx is not installed, or a shape cannot be told."""
    try:
        import onnx
    except ModuleNotFoundError:
        return None
    model = onnx.load(str(file))
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_value = 1  # the batch; replaces the name
    try:
        return work_of(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    except (KeyError, onnx.shape_inference.InferenceError):
        return None


def work_of(graph: Any) -> Work:
    """The work in a graph whose shapes were inferred for one image.

    Raises:
        KeyError: A layer's shape is not known.
    """
    shapes, itemsizes = _values(graph)
    stored = {node.output[0]: node.input[0] for node in graph.node if _is_dequantize(node)}
    flop = moved = 0
    for node in graph.node:
        if node.op_type not in LAYERS:
            continue
        inputs, weights, output = (shapes[n] for n in (*node.input[:2], node.output[0]))
        flop += 2 * prod(output) * _depth(node, inputs, weights)
        source = stored.get(node.input[0], node.input[0])
        moved += (prod(inputs) + prod(output)) * itemsizes[source]
    constants = sum(prod(tensor.dims) * _itemsize(tensor.data_type) for tensor in graph.initializer)
    return Work(flop, constants, moved)


def _depth(node: Any, inputs: tuple[int, ...], weights: tuple[int, ...]) -> int:
    """Multiplications that make one output value."""
    if node.op_type == "Conv":
        return prod(weights[1:])  # (out, in / groups, height, width)
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return inputs[0] if transposed else inputs[-1]


def _values(graph: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes, and bytes per element, of all values whose shape is known."""
    shapes, itemsizes = {}, {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        itemsizes[value.name] = _itemsize(tensor.elem_type)
        if all(size.HasField("dim_value") for size in tensor.shape.dim):
            shapes[value.name] = tuple(size.dim_value for size in tensor.shape.dim)
    for initializer in graph.initializer:
        shapes[initializer.name] = tuple(initializer.dims)
        itemsizes[initializer.name] = _itemsize(initializer.data_type)
    return shapes, itemsizes


def _is_dequantize(node: Any) -> bool:
    return bool(node.op_type == "DequantizeLinear")


def _itemsize(kind: int) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
