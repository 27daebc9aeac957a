"""What of a graph can be in integers, and whether onnxruntime then runs it so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import numpy_helper

from distill.export.onnx_graph import LAYERS

CONVOLUTIONS = ("QLinearConv", "ConvInteger")
MULTIPLICATIONS = ("QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat")


def pixel_tensors(graph: onnx.GraphProto) -> set[str]:
    """Names of what is nothing but the pixels in float."""
    pixels, cast = {"image"}, set[str]()
    for node in graph.node:
        if node.op_type in ("Transpose", "Reshape") and node.input[0] in pixels:
            pixels |= set(node.output)
        elif node.op_type == "Cast" and node.input[0] in pixels:
            cast |= set(node.output)
    return cast


def pass_pixels_on(graph: onnx.GraphProto) -> None:
    """Lets a first layer that takes pixels have the bytes of the image, not bytes made anew.

    Quantised by a scale of 1, pixels in float are the bytes that they were. Onnxruntime then makes
    no float of them at all.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    casts = pixel_tensors(graph)
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] not in casts:
            continue
        scale, zero_point = (constants[name] for name in node.input[1:3])
        if scale == 1 and zero_point == 0:
            for user in graph.node:
                if user.op_type == "DequantizeLinear" and user.input[0] == node.output[0]:
                    user.input[0] = sources[node.input[0]]
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in casts - used:
            graph.node.remove(node)


def kernels(file: Path, folder: Path) -> Counter[str]:
    """How often onnxruntime runs each kind of operator of a file, after its own optimisation.

    Args:
        folder: For the optimised graph, which is read and removed.
    """
    import onnxruntime as ort

    optimised = folder / "optimised.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(optimised)
    ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    ran = Counter(node.op_type for node in onnx.load(optimised).graph.node)
    optimised.unlink()
    return ran


def float_in_disguise(file: Path, layers: Sequence[str], ran: Counter[str]) -> list[str]:
    """Reasons why a file is not the quantised one that it says it is; none if it is.

    Args:
        layers: Names of those that it should have in integers.
        ran: Its `kernels`.
    """
    graph, reasons = onnx.load(file).graph, list[str]()
    kinds = Counter(node.op_type for node in graph.node)
    if not (kinds["QuantizeLinear"] and kinds["DequantizeLinear"]):
        reasons.append("it has no Q/DQ nodes")
    restored = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    quantised = {
        n.name: n.op_type for n in graph.node if n.op_type in LAYERS and {*n.input[:2]} <= restored
    }
    missing = [name for name in layers if name not in quantised]
    if missing:
        of = f"{len(missing)} of {len(layers)} layers"
        reasons.append(f"{of} have no quantised inputs, the first is {missing[0]}")
    num_convolutions = sum(quantised.get(name) == "Conv" for name in layers)
    integer = sum(ran[kind] for kind in CONVOLUTIONS)
    if integer < num_convolutions:
        reasons.append(f"onnxruntime runs {integer} of {num_convolutions} convolutions in integers")
    if not integer + sum(ran[kind] for kind in MULTIPLICATIONS):
        reasons.append("onnxruntime runs no layer in integers")
    return reasons
