"""TensorRT through onnxruntime, which builds for each batch size when it first meets it.

That takes long. float16 is allowed: a GPU's tensor cores are what one uses TensorRT for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.benchmarks.engines import Device, Loaded, Settings
from distill.benchmarks.engines._onnxruntime import missing_provider, open_on

FORMAT = "onnx"
DEVICES: tuple[Device, ...] = ("cuda",)
PACKAGES = ("onnxruntime", "tensorrt")
CONCURRENT = False
PROVIDER = "TensorrtExecutionProvider"


def unavailable(device: Device) -> str | None:
    """Why this machine cannot run it."""
    missing: str | None = missing_provider(PROVIDER)
    return missing


def load(model: Path, settings: Settings) -> Loaded:
    """Opens a file on the GPU."""
    session = open_on(model, settings, PROVIDER, {"trt_fp16_enable": "1"})

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        probs: NDArray[np.float32] = session.run(["prob"], {"image": pixels})[0]
        return probs

    return Loaded(run, "fp16")
