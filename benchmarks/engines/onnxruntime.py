"""onnxruntime as `Predictor` calls it: arrays in, arrays out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.benchmarks.engines import Device, Loaded, Settings
from distill.benchmarks.engines._onnxruntime import needs, open_on

FORMAT = "onnx"
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
PACKAGES = ("onnxruntime",)
CONCURRENT = True
unavailable = needs


def load(model: Path, settings: Settings) -> Loaded:
    """Opens a file on the CPU or the GPU."""
    session = open_on(model, settings)

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        probs: NDArray[np.float32] = session.run(["prob"], {"image": pixels})[0]
        return probs

    return Loaded(run)
