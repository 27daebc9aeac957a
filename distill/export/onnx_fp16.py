"""The fp16 file, for GPUs: half the size, and half the traffic where there are kernels for it.

Between the first layer and the last, weights and activations are float16. Normalisation and
softmax stay in float32, and so do the outputs. CPUs mostly compute it in float32 after converting:
expect no speed there, and look at `distill bench`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from distill.errors import first_line
from distill.export import Record
from distill.export import Target as Base
from distill.export.onnx_file import clean, describe, name_nodes, probs_of_file
from distill.export.onnx_graph import inner_nodes, leading_to
from distill.export.outliers import write_outliers
from distill.export.parity import Limits, in_words
from distill.files import blame_system

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

# 10 bits of mantissa: 1 in 2,048 per operation. Classes closer than `rounding` may change places.
LIMITS = Limits(difference=2e-2, rounding=5e-3)
LARGEST = float(np.finfo(np.float16).max)
HEADROOM = 2.0  # times that activations on validation have to stay below the largest float16
PATH = "onnxruntime.transformers.float16"
RANGED = 32  # images whose activations are held at once


class Target(Base):
    """`student.fp16.onnx`, if no value overflows and the answers stay."""

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Converts the reference file; a file that does not hold is not published, and says why."""
        file, record = folder / "student.fp16.onnx", {"for": "GPUs", "path": PATH}
        row, reasons = self._try_out(shipment, file)
        if reasons:
            file.unlink(missing_ok=True)
            why = "; ".join(reasons)
            shipment.say(f"no fp16 file: {why}")
            return {**record, "refused": why, "tried": [{"path": PATH, **row}]}
        write_outliers(file, shipment)
        shipment.say(f"{file.name}, for GPUs: {in_words(row)}")
        return {**record, "files": {file.name: row}}

    def _try_out(self, shipment: Shipment, file: Path) -> tuple[Record, list[str]]:
        """Writes the file; what was measured of it, and reasons not to publish it."""
        source, pixels = shipment.fp32, shipment.data.val.pixels
        try:
            model = to_float16(onnx.load(source))
        except Exception as error:  # the converter raises anything from TypeError to its own
            blame_system(error)
            reason = first_line(error)
            return {"error": reason}, [f"cannot be converted: {reason}"]
        file.write_bytes(model.SerializeToString())
        probs = probs_of_file(file, pixels)
        own = {"precision": "fp16", "metrics": shipment.metrics(probs)}
        describe(model, {**shipment.metadata, **own})
        file.write_bytes(model.SerializeToString())
        largest, reasons = largest_activation(source, pixels), list[str]()
        row = shipment.judge(probs, limits=LIMITS)
        if largest * HEADROOM > LARGEST:
            reasons.append(f"activations reach {largest:.3g}, float16 ends at {LARGEST:.0f}")
        if not LIMITS.allow(row):
            reasons.append("its answers differ from those of the fp32 file")
        return {**row, "largest_activation": largest}, reasons


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its layers in float16, inputs and outputs as they were."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    name_nodes(model.graph)
    inner, to_prob = set(inner_nodes(model.graph)), leading_to(model.graph, ["prob"])
    of_image = made_of(model.graph, "image")
    floats = [
        node.name
        for node in model.graph.node
        if node.name not in inner and to_prob & of_image & set(node.output)
    ]
    # The list of operators that it keeps in float by itself is of other runtimes' gaps.
    converted = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[], node_block_list=floats
    )
    drop_round_trips(converted.graph)
    ONNXModel(converted).topological_sort()
    clean(converted)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def drop_round_trips(graph: onnx.GraphProto) -> None:
    """Takes out the conversions to float16 and back that the converter puts between float nodes."""
    casts = {(node.output[0], node.attribute[0].i): node for node in casts_of(graph)}
    straight: dict[str, str] = {}
    for (name, kind), back in casts.items():
        down = casts.get((back.input[0], onnx.TensorProto.FLOAT16))
        if kind == onnx.TensorProto.FLOAT and down:
            straight[name] = down.input[0]
    # An output keeps its name: what it is made of takes it.
    outputs = {straight[o.name]: o.name for o in graph.output if o.name in straight}
    for name in outputs.values():
        graph.node.remove(casts[name, onnx.TensorProto.FLOAT])
    for node in graph.node:
        node.input[:] = [straight.get(name, name) for name in node.input]
        node.input[:] = [outputs.get(name, name) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
    while unused := [node for node in casts_of(graph) if node.output[0] not in used_in(graph)]:
        for node in unused:
            graph.node.remove(node)


def made_of(graph: onnx.GraphProto, tensor: str) -> set[str]:
    """Names of all tensors that are computed from this one, and not from weights alone."""
    names = {tensor}
    for node in graph.node:
        if names & set(node.input):
            names |= set(node.output)
    return names


def casts_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that convert between types."""
    return [node for node in graph.node if node.op_type == "Cast"]


def used_in(graph: onnx.GraphProto) -> set[str]:
    """Names of all tensors that something is made of, outputs included."""
    inputs = {name for node in graph.node for name in node.input}
    return inputs | {output.name for output in graph.output}


def largest_activation(file: Path, pixels: NDArray[np.uint8]) -> float:
    """The largest absolute value that any layer of a float32 file gives or takes on these images.

    A CPU computes float16 graphs in float32 and would not see an overflow.
    """
    import onnxruntime as ort

    model = onnx.shape_inference.infer_shapes(onnx.load(file))
    name_nodes(model.graph)
    inner = set(inner_nodes(model.graph))
    nodes = [node for node in model.graph.node if node.name in inner]
    touched = {name for node in nodes for name in (*node.input, *node.output)}
    floats = [
        value
        for value in model.graph.value_info
        if value.name in touched and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    model.graph.output.extend(floats)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in floats]
    return max(
        float(np.abs(array).max())
        for start in range(0, len(pixels), RANGED)
        for array in session.run(names, {"image": pixels[start : start + RANGED]})
    )
