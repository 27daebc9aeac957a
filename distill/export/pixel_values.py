"""The graph as transformers.js and the Hub expect it: normalised pixels in, logits out.

A shipped file normalises and applies softmax by itself; their image processors and pipelines do
that outside. So both ends are cut off, and what lies between stays bit for bit. Where normalising
is in the weights of the first layer, pixel values are made bytes again instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distill.data.decode import Pixels
from distill.export.onnx_graph import leading_to
from distill.models import Channels

NORMALISING = ("Transpose", "Cast", "Mul", "Add")


def to_pixel_values(model: onnx.ModelProto, mean: Channels, std: Channels) -> onnx.ModelProto:
    """`pixel_values` float32 `(batch, 3, height, width)` to `logits` `(batch, classes)`.

    Args:
        model: A shipped file; it is left as it is.
        mean, std: What its pixels, in [0, 1], are normalised by.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    normalising, end = normalising_tensors(graph), logits_tensor(graph)
    needed = leading_to(graph, [end])
    before = leading_to(graph, normalising[-1:])
    kept = [n for n in graph.node if needed & set(n.output) and not before & set(n.output)]
    # What asks the image for the size of the batch asks the pixel values.
    names = {**dict.fromkeys(normalising, "pixel_values"), end: "logits"}
    for node in kept:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    if not normalising:
        kept = [*pixels_again(graph, mean, std), *kept]
    used = {name for node in kept for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    _, height, width, _ = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    shapes = {"pixel_values": ["batch", 3, height, width], "logits": ["batch", classes]}
    first, last = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    graph.CopyFrom(helper.make_graph(kept, "pixel_values", [first], [last], weights))
    onnx.checker.check_model(rewritten, full_check=True)
    return rewritten


def normalising_tensors(graph: onnx.GraphProto) -> list[str]:
    """Names of the input and what it becomes: transposed, scaled and, at last, shifted.

    None where a file does something else first: its weights normalise, or it resizes.
    """
    tensors, last = [graph.input[0].name], ""
    while last != "Add":
        takers = [node for node in graph.node if tensors[-1] in node.input]
        users = [node for node in takers if node.op_type != "Shape"]
        if len(users) != 1 or users[0].op_type not in NORMALISING:
            return []
        tensors.append(users[0].output[0])
        last = users[0].op_type
    return tensors


def pixels_again(graph: onnx.GraphProto, mean: Channels, std: Channels) -> list[onnx.NodeProto]:
    """Nodes that make the bytes of the input of `pixel_values` again; they come out the same."""
    constants = {
        "unscale": 255.0 * np.array(std, np.float32).reshape(1, 3, 1, 1),
        "unshift": 255.0 * np.array(mean, np.float32).reshape(1, 3, 1, 1),
        "darkest": np.float32(0.0),
        "lightest": np.float32(255.0),
    }
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    return [
        helper.make_node("Mul", ["pixel_values", "unscale"], ["unscaled"]),
        helper.make_node("Add", ["unscaled", "unshift"], ["unshifted"]),
        helper.make_node("Round", ["unshifted"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "darkest", "lightest"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], [graph.input[0].name], perm=[0, 2, 3, 1]),
    ]


def logits_tensor(graph: onnx.GraphProto) -> str:
    """Name of the tensor that softmax, or sigmoids, make probabilities of."""
    (node,) = (node for node in graph.node if "prob" in node.output)
    tensor: str = node.input[0]
    return tensor


def normalise(pixels: Pixels, metadata: dict[str, Any]) -> NDArray[np.float32]:
    """What an image processor of theirs gives: float32 `(n, 3, height, width)`.

    Args:
        pixels: uint8 `(n, height, width, 3)`.
        metadata: With `mean` and `std`.
    """
    unit = pixels.astype(np.float32) / np.float32(255.0)
    scaled = (unit - np.float32(metadata["mean"])) / np.float32(metadata["std"])
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
