"""onnxruntime with IO binding: inputs and outputs stay where they are bound.

On a GPU the pixels are copied into one buffer per batch size; on the CPU nothing is copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.benchmarks.engines import Device, Loaded, Settings
from distill.benchmarks.engines._onnxruntime import needs, open_on

FORMAT = "onnx"
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
PACKAGES = ("onnxruntime",)
CONCURRENT = False
unavailable = needs


def load(model: Path, settings: Settings) -> Loaded:
    """Opens a file on the CPU or the GPU."""
    import onnxruntime as ort

    session, device = open_on(model, settings), settings.device
    binding = session.io_binding()
    buffers: dict[int, Any] = {}

    def bind(pixels: NDArray[np.uint8]) -> None:
        if device == "cpu":
            binding.bind_cpu_input("image", pixels)
        elif len(pixels) in buffers:
            buffers[len(pixels)].update_inplace(pixels)
            binding.bind_ortvalue_input("image", buffers[len(pixels)])
        else:
            buffers[len(pixels)] = ort.OrtValue.ortvalue_from_numpy(pixels, device, 0)
            binding.bind_ortvalue_input("image", buffers[len(pixels)])
        binding.bind_output("prob", device)

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        bind(pixels)
        session.run_with_iobinding(binding)
        probs: NDArray[np.float32] = binding.copy_outputs_to_cpu()[0]
        return probs

    return Loaded(run)
