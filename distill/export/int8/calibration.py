"""The ranges of a file's activations: by onnxruntime's methods, and by the least squared error."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from distill.export.onnx_graph import LAYERS

Pixels = NDArray[np.uint8]
Method = Literal["minmax", "percentile", "entropy", "mse"]
# What has an integer kernel on the CPU or only moves values; the rest is left in float.
OPS = [
    *(*LAYERS, "Relu", "Clip", "LeakyRelu", "Sigmoid", "Add", "Mul", "Concat", "Split", "Pad"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose"),
]
# onnxruntime's name of each method. 2048 bins resolve a ten-thousandth. The search for the least
# entropy takes time with the square of the bins, and with the default of 128 has nothing to choose.
# There is none for the squared error: of `mse`, onnxruntime makes the histograms.
METHODS: dict[Method, tuple[str, dict[str, Any]]] = {
    "minmax": ("MinMax", {}),
    "percentile": ("Percentile", {"num_bins": 2048, "percentile": 99.99, "symmetric": False}),
    "entropy": ("Entropy", {"num_bins": 512, "num_quantized_bins": 128}),
    "mse": ("Percentile", {"num_bins": 8192, "symmetric": False}),
}
BATCH = 16  # images whose activations are held at once
STEPS = 255  # of an unsigned integer of 8 bits
SHARES = 0.96 ** np.arange(100)  # of the extremes, at which a range may end: down to 0.018


def find_ranges(model: Path, pixels: Pixels, method: Method, folder: Path) -> Any:
    """The range of every activation of a file, as onnxruntime's `TensorsData`."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    name, options = METHODS[method]
    with contextlib.redirect_stdout(io.StringIO()):  # the collectors print about themselves
        calibrator = create_calibrator(
            model,
            OPS,
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod[name],
            extra_options=options,
        )
        # A histogram is made of all activations of one call: a call per batch bounds the memory.
        for start in range(0, len(pixels), BATCH):
            calibrator.collect_data(_Reader(pixels[start : start + BATCH]))
        if method != "mse":
            return calibrator.compute_data()
        histograms = calibrator.collector.get_histogram_dict()
    return as_ranges(
        {name: closest_range(*histogram[:4]) for name, histogram in histograms.items()}
    )


def as_ranges(ends: dict[str, tuple[float, float]]) -> Any:
    """Lowest and highest value of each activation as onnxruntime's `TensorsData`."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorsData

    pairs = {name: tuple(np.float32(end) for end in pair) for name, pair in ends.items()}
    return TensorsData(CalibrationMethod.MinMax, pairs)


def closest_range(
    counts: NDArray[np.int64], edges: NDArray[np.floating[Any]], lowest: float, highest: float
) -> tuple[float, float]:
    """The range whose 256 steps are closest to the values of a histogram, in the squared mean.

    A narrower range rounds more finely and clips more. One end is searched at a time, the upper
    one again when the lower one is found.
    """
    filled = counts > 0
    counts, values = counts[filled], ((edges[:-1] + edges[1:]) / 2)[filled].astype(np.float64)
    extremes = (min(float(lowest), 0.0), max(float(highest), 0.0))
    ends = list(extremes)

    def error(index: int, end: float) -> float:
        low, high = (end, ends[1]) if index == 0 else (ends[0], end)
        scale = (high - low) / STEPS
        first = np.round(low / scale)
        rounded = np.clip(np.round(values / scale), first, first + STEPS) * scale
        return float(counts @ (rounded - values) ** 2)

    for index in (1, 0, 1):
        if extremes[index] != 0.0:
            ends[index] = min(extremes[index] * SHARES, key=lambda end: error(index, end))
    return ends[0], ends[1]


def share_ranges(graph: onnx.GraphProto, ranges: Any) -> None:
    """Gives what is only concatenated the range of the whole, so that it is copied, not rescaled.

    It would be rounded to the steps of the whole in any case, after being rounded to its own.
    """
    uses = Counter(name for node in graph.node for name in node.input)
    for node in reversed(graph.node):
        if node.op_type == "Concat" and node.output[0] in ranges:
            for name in node.input:
                if uses[name] == 1 and name in ranges:
                    ranges[name] = ranges[node.output[0]]


class _Reader:
    """One batch, as onnxruntime asks for it."""

    def __init__(self, pixels: Pixels) -> None:
        self._feeds = iter([{"image": np.ascontiguousarray(pixels)}])

    def get_next(self) -> dict[str, Pixels] | None:
        """The input, then None."""
        return next(self._feeds, None)
