"""OpenVINO on the CPU, told to aim at latency and to compute in the precision of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.benchmarks.engines import Device, Loaded, Settings

FORMAT = "onnx"
DEVICES: tuple[Device, ...] = ("cpu",)
PACKAGES = ("openvino",)
CONCURRENT = False


def unavailable(device: Device) -> str | None:
    """Why this machine cannot run it."""
    return None


def load(model: Path, settings: Settings) -> Loaded:
    """Opens a file on the CPU."""
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": settings.threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else fp32 files run in bf16 where the CPU has it
    }
    request = openvino.Core().compile_model(str(model), "CPU", options).create_infer_request()

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        request.infer({"image": pixels}, share_inputs=True)
        probs: NDArray[np.float32] = request.get_tensor("prob").data.copy()
        return probs

    return Loaded(run)
