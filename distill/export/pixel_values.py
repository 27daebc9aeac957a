"""The graph as transformers.js and the Hub expect it: normalised pixels in, logits out.

A shipped file normalises and applies softmax by itself; their image processors and pipelines do
that outside. So both ends are cut off, and what lies between stays bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from distill.data.decode import Pixels
from distill.errors import UserError
from distill.export.onnx_graph import leading_to

NORMALISING = ("Transpose", "Cast", "Mul", "Add")


def to_pixel_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """`pixel_values` float32 `(batch, 3, height, width)` to `logits` `(batch, classes)`.

    Args:
        model: A shipped file; it is left as it is.

    Raises:
        UserError: Something else than normalisation comes before the first layer.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    *earlier, start = normalising_tensors(graph)
    end = logits_tensor(graph)
    before, needed = leading_to(graph, [start]), leading_to(graph, [end])
    kept = [n for n in graph.node if needed & set(n.output) and not before & set(n.output)]
    # What asks the image for the size of the batch asks the pixel values.
    names = {**dict.fromkeys((*earlier, start), "pixel_values"), end: "logits"}
    for node in kept:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
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
    """Names of the input and what it becomes: transposed, scaled and, at last, shifted."""
    tensors, last = [graph.input[0].name], ""
    while last != "Add":
        takers = [node for node in graph.node if tensors[-1] in node.input]
        users = [node for node in takers if node.op_type != "Shape"]
        if len(users) != 1 or users[0].op_type not in NORMALISING:
            what = f"the student resizes its input itself ({users[0].op_type} before normalising)"
            hint = "set model.input_size to data.size, or leave the target hub out"
            raise UserError(what, "export.targets", hint)
        tensors.append(users[0].output[0])
        last = users[0].op_type
    return tensors


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
