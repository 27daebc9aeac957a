"""What comes before the first layer, laid out as onnxruntime's integer kernels are fastest at.

They have channels last. Nothing here changes a number.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from distill.export.int8.integers import pixel_tensors
from distill.export.onnx_graph import inner_nodes

PACKED = 4  # channels that kernels take at once, without copying each window first


def lay_out(graph: onnx.GraphProto) -> None:
    """Both of what follows, where they apply; a graph that is laid out stays as it is.

    Args:
        graph: Of a file in float, with shapes inferred and nodes named.
    """
    pixels_in_rows(graph)
    widen_constants(graph)


def pixels_in_rows(graph: onnx.GraphProto) -> None:
    """Lets a first layer whose windows lie side by side read the pixels of a row at once.

    An image `(height, width, 3)` is in memory what `(height, width / k, 3 k)` is. So windows of
    `k x k` pixels are windows of `k x 1` there: of a stem of 4 x 4 pixels the kernel then takes 4
    pieces of 12 values, where it would gather 16 of 3 into a matrix first.

    Claim: 60.7 us per call where it was 68.8, with the same answers.
    Conditions: the student of `students/fast_masks.toml`, one thread, onnxruntime 1.32, AVX512-VNNI
    (benchmarks/LOG.md).
    """
    pixels = pixel_tensors(graph)
    layers = [n for n in graph.node if n.op_type == "Conv" and n.input[0] in pixels]
    turned = [n for n in graph.node if n.op_type == "Transpose" and n.input[0] == "image"]
    if len(layers) != 1 or len(turned) != 1:
        return
    (layer,), (transpose,) = layers, turned
    weights = {tensor.name: tensor for tensor in graph.initializer}
    weight = weights.get(layer.input[1])
    _, height, width, _ = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    attributes = {a.name: helper.get_attribute_value(a) for a in layer.attribute}
    side = attributes["strides"][0]
    plain = {"strides": [side, side], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    shape = (3, side, side)
    if weight is None or tuple(weight.dims[1:]) != shape or width % side or 3 * side % PACKED:
        return
    if any(attributes.get(name, value) != value for name, value in plain.items()):
        return
    windows: NDArray[np.float32] = numpy_helper.to_array(weight)
    rows = windows.transpose(0, 3, 1, 2).reshape(len(windows), 3 * side, side, 1)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows), weight.name))
    sizes = np.array([0, height, width // side, 3 * side], np.int64)  # 0: as many as there are
    graph.initializer.append(numpy_helper.from_array(sizes, "row_sizes"))
    graph.node.insert(0, helper.make_node("Reshape", ["image", "row_sizes"], ["rows"], "in_rows"))
    transpose.input[0] = "rows"
    for attribute in layer.attribute:
        if attribute.name in ("kernel_shape", "strides"):
            attribute.CopyFrom(helper.make_attribute(attribute.name, [side, 1]))
    for value in list(graph.value_info):
        if value.name in pixels | set(transpose.output):
            graph.value_info.remove(value)


def widen_constants(graph: onnx.GraphProto) -> None:
    """Repeats what normalisation multiplies by and adds per channel along the width of the image.

    onnxruntime lays the images out for its integer kernels, channels last, before they are
    normalised. Three values that repeat every three elements then cost more than the rest of the
    stem; a row of them is as fast as can be. The numbers stay the same.
    """
    inner = inner_nodes(graph)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        shape = shapes.get(node.output[0], [])
        if node.op_type not in ("Mul", "Add") or node.name in inner or len(shape) != 4:
            continue
        if shape[3] == 0:  # not known, as behind a resize: no row is as long as it
            continue
        for name in node.input:
            if name in constants and list(constants[name].dims)[-3:] == [shape[1], 1, 1]:
                values = numpy_helper.to_array(constants[name]).repeat(shape[3], axis=-1)
                constants[name].CopyFrom(numpy_helper.from_array(values, name))
