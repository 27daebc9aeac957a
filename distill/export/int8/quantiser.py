"""Static quantisation of one file by onnxruntime: Q/DQ nodes around its layers.

Activations are uint8 and weights int8 of 7 bits, with a scale per output channel. Unsigned times
signed is what x86 multiplies in one instruction: `vpdpbusd` where there is VNNI, else `vpmaddubsw`,
which adds two products in 16 bits. 2 * 255 * 127 does not fit in there, and onnxruntime then gives
half of the sum; 2 * 255 * 64 = 32,640 fits. A file is used on other machines than the one that it
was verified on, so its weights have 7 bits everywhere.

Claim: a squeeze student of 99.67 % top-1 on 599 validation images of masks takes 0.65 of the time
of fp32 and has 99.50 %. With weights of 8 bits it would have 96.16 %, with signed activations take
1.9 of the time, with unsigned weights of 8 bits 0.86 of it (99.67 %).
Conditions: onnxruntime 1.31, 128 px, CPU time of one thread of an AMD EPYC without VNNI, kept
busy by other work. With VNNI, 8 bits gain nothing that 599 images show (benchmarks/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from distill.export.int8.calibration import (
    OPS,
    Method,
    Pixels,
    as_ranges,
    find_ranges,
    share_ranges,
)
from distill.export.int8.first_layer import lay_out
from distill.export.int8.integers import pass_pixels_on, pixel_tensors
from distill.export.int8.trim import trim
from distill.export.onnx_file import clean, describe, name_nodes, probs_of_file
from distill.export.onnx_graph import ACTIVATIONS, EMBEDDING, inner_nodes, order_layers
from distill.runtime.session import open_session, read_metadata

# Trains the graph behind a quantised file: from that and the float graph to a float graph of other
# weights, and the lowest and highest value of each activation.
Distil = Callable[
    [onnx.ModelProto, onnx.ModelProto], tuple[onnx.ModelProto, dict[str, tuple[float, float]]]
]
PIXEL_ENDS = (0.0, 255.0)  # of what is nothing but pixels, whatever the images show
PROBED = 64  # images that the sensitivity of the layers is measured on


@dataclass(frozen=True)
class Quantiser:
    """A float file, to be quantised in several ways.

    Attributes:
        source: A shipped file in float.
        pixels: What the ranges are taken from, uint8 `(n, height, width, 3)`.
        folder: For the files that are tried.
        distil: For files whose weights are trained; None where there are none.
    """

    source: Path
    pixels: Pixels
    folder: Path
    distil: Distil | None = None
    _ranges: dict[Method, Any] = field(default_factory=dict)

    @property
    def can_distil(self) -> bool:
        """Whether weights can be trained."""
        return self.distil is not None

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What a quantised file says of itself until it is scored: what the source says."""
        return {**read_metadata(open_session(self.source), self.source), "precision": "int8"}

    @cached_property
    def prepared(self) -> Path:
        """The source with constants folded, shapes inferred and every node named."""
        from onnxruntime.quantization import quant_pre_process

        file = self.folder / "prepared.onnx"
        # Only the batch is of unknown size: no need of symbolic inference, and of sympy.
        quant_pre_process(self.source, file, skip_symbolic_shape=True)
        model = onnx.load(file)
        name_nodes(model.graph)
        lay_out(model.graph)
        # The quantiser would round an output that lies between layers.
        for place, output in enumerate(model.graph.output):
            if output.name == EMBEDDING:
                del model.graph.output[place]
                break
        onnx.save(model, file)
        return file

    @cached_property
    def _embedding(self) -> list[onnx.ValueInfoProto]:
        """The output of the source that `prepared` is without; none where it has none."""
        return [o for o in onnx.load(self.source).graph.output if o.name == EMBEDDING]

    @cached_property
    def _order(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return order_layers(onnx.load(self.prepared).graph)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the convolutions and linear layers on the way to `prob`."""
        return self._order[0]

    @property
    def ends(self) -> tuple[str, ...]:
        """Those of them that come first or last."""
        return self._order[1]

    def quantise(self, method: Method, floats: Collection[str] = ()) -> Path:
        """Writes a quantised file and returns its path, which the next one is written to as well.

        Args:
            method: How ranges follow from the calibration.
            floats: Names of layers that stay in float.
        """
        model = onnx.load(self.prepared)
        nodes = [name for name in inner_nodes(model.graph) if name not in floats]
        return self._write(model, self._calibrated(method), nodes)

    def distilled(self, method: Method) -> Path:
        """Writes a quantised file of trained weights and ranges, which start from a calibration."""
        assert self.distil is not None
        source = onnx.load(self.prepared)
        model, ends = self.distil(onnx.load(self.quantise(method)), source)
        for node in model.graph.node:  # which onnxruntime looks up, though it then is not there
            if node.op_type in ACTIVATIONS and node.output[0] in ends:
                ends.setdefault(node.input[0], ends[node.output[0]])
        ends |= dict.fromkeys(pixel_tensors(model.graph), PIXEL_ENDS)
        return self._write(model, as_ranges(ends), inner_nodes(model.graph))

    def by_sensitivity(self, method: Method) -> list[str]:
        """All layers, first the one whose quantisation alone moves the probabilities most."""
        pixels, ranges = self.pixels[:PROBED], self._calibrated(method)
        expected = probs_of_file(self.prepared, pixels)
        moved = {}
        for layer in self.layers:
            file = self._write(onnx.load(self.prepared), ranges, [layer])
            moved[layer] = float(np.abs(probs_of_file(file, pixels) - expected).mean())
        return sorted(self.layers, key=lambda layer: -moved[layer])

    def _calibrated(self, method: Method) -> Any:
        """The ranges by a method."""
        if method not in self._ranges:
            ranges = find_ranges(self.prepared, self.pixels, method, self.folder)
            graph = onnx.load(self.prepared).graph
            share_ranges(graph, ranges)
            for name in pixel_tensors(graph) & set(ranges.keys()):
                ranges[name] = as_ranges({name: PIXEL_ENDS})[name]
            self._ranges[method] = ranges
        return self._ranges[method]

    def _write(self, model: onnx.ModelProto, ranges: Any, nodes: list[str]) -> Path:
        """The file of a float model, which is used up, with these nodes in integers."""
        from onnxruntime.quantization import QDQQuantizer, QuantType

        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=OPS,
            # Logits keep their precision: 256 of them would tie images that differ.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised = quantizer.model.model
        pass_pixels_on(quantised.graph)
        quantised.graph.output.extend(self._embedding)
        trim(quantised.graph, onnx.load(self.prepared).graph)
        clean(quantised)
        _keep_used_opsets(quantised)
        describe(quantised, self.metadata)
        onnx.checker.check_model(quantised, full_check=True)
        file = self.folder / "candidate.onnx"
        file.write_bytes(quantised.SerializeToString())
        return file


def _keep_used_opsets(model: onnx.ModelProto) -> None:
    """Drops the operator sets that onnxruntime declares and no node is of."""
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
