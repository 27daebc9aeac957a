"""torch with a CUDA graph per batch size: one launch instead of one per kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.benchmarks.engines import Device, Loaded, Settings
from distill.benchmarks.engines._torch import Forward, needs, open_run

FORMAT = "run"
DEVICES: tuple[Device, ...] = ("cuda",)
PACKAGES = ("torch",)
CONCURRENT = False
WARM_UPS = 3  # before a capture, on a stream of their own, as torch asks for
unavailable = needs


def load(model: Path, settings: Settings) -> Loaded:
    """Opens a run directory; a graph is captured at the first run of each batch size."""
    import torch

    forward = open_run(model, settings, channels_last=True, dtype="float32")
    graphs: dict[int, tuple[Any, Any, Any]] = {}

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(pixels)
        if len(pixels) not in graphs:
            graphs[len(pixels)] = _capture(forward, images.to(settings.device))
        graph, inputs, outputs = graphs[len(pixels)]
        inputs.copy_(images)
        graph.replay()
        probs: NDArray[np.float32] = outputs.cpu().numpy()
        return probs

    return Loaded(run, "fp32")


def _capture(forward: Forward, inputs: Any) -> tuple[Any, Any, Any]:
    """A graph, and the tensors that it reads and writes."""
    import torch

    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            forward(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = forward(inputs)
    return graph, inputs, outputs
