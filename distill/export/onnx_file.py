"""What every exported file has in common: no traces of the machine, a description, any batch size.

numpy and onnx only, so that a target that starts from the fp32 file needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

IR = 10  # what onnxruntime 1.18 and later reads
BATCHES = (1, 2, 5, 64)
Pixels = NDArray[np.uint8]
Probs = NDArray[np.float32]


def clean(model: onnx.ModelProto) -> None:
    """Removes what tells of the machine (stack traces with local paths) and pins the versions."""
    model.ir_version = min(model.ir_version, IR)
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]


def name_nodes(graph: onnx.GraphProto) -> None:
    """Gives every node a name of its own."""
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


def describe(model: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    """Puts the metadata into the model, each value as a JSON string, and names the producer."""
    model.producer_name = "distillate"
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    onnx.helper.set_model_props(model, values)


def write_labels(names: Sequence[str], file: Path) -> None:
    """A line per class, so that its number is that of the output; no name ends its line early."""
    file.write_text("".join(" ".join(name.splitlines()) + "\n" for name in names), "utf-8")


def probs_of_file(file: Path, pixels: Pixels) -> Probs:
    """Probabilities `(n, classes)` of all images by onnxruntime, as `in_batches` runs them.

    Args:
        pixels: uint8 `(n, height, width, 3)`.
    """
    from distill.runtime.session import open_session

    session = open_session(file)
    return in_batches(lambda batch: session.run(["prob"], {"image": batch})[0], pixels)


def in_batches(run: Callable[[Pixels], Probs], pixels: Pixels) -> Probs:
    """What a runtime gives for all images, in batches of 1, 2, 5 and 64, however few there are.

    A batch dimension that is not dynamic fails at the second.
    """
    least = sum(BATCHES)
    enough = np.resize(pixels, (least, *pixels.shape[1:])) if len(pixels) < least else pixels
    parts, start = [], 0
    for size in batch_sizes(len(enough)):
        parts.append(run(np.ascontiguousarray(enough[start : start + size])))
        start += size
    return np.concatenate(parts)[: len(pixels)]


def batch_sizes(count: int) -> Iterator[int]:
    """1, 2, 5, then 64s, down to what is left."""
    for size in BATCHES[:-1]:
        if count > 0:
            yield min(size, count)
            count -= min(size, count)
    while count > 0:
        yield min(BATCHES[-1], count)
        count -= min(BATCHES[-1], count)
