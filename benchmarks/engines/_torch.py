"""What the torch engines share: a run's best weights as a function from pixels to probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.benchmarks.engines import Device, Run, Settings

Forward = Callable[[Any], Any]  # uint8 (batch, height, width, 3) to float32 (batch, classes)


def needs(device: Device) -> str | None:
    """Why torch cannot use a device here; imports all that opening a run needs."""
    import torch

    import distill.training.run_directory  # noqa: F401

    if device == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU"
    return None


def open_run(folder: Path, settings: Settings, channels_last: bool, dtype: str) -> Forward:
    """The best weights of a run as they would be exported, on the device.

    Sets torch's number of threads, which is one for the whole process and stays.

    Args:
        dtype: Name of the torch dtype of weights and activations.

    Raises:
        UserError: Not a complete run directory.
    """
    import torch

    from distill.models.deployed import deployed
    from distill.training.run_directory import open_run

    torch.set_num_threads(settings.threads)
    kind = getattr(torch, dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    classifier = deployed(open_run(folder).load()).requires_grad_(False).to(settings.device, kind)
    classifier.to(memory_format=layout)
    single = classifier.contract.task == "single"

    def forward(pixels: Any) -> Any:
        images = pixels.permute(0, 3, 1, 2).to(kind) / 255  # stays channels-last
        logits = classifier(images.contiguous(memory_format=layout)).logits.float()
        return logits.softmax(dim=1) if single else logits.sigmoid()

    return forward


def from_host(forward: Forward, device: Device) -> Run:
    """The function on arrays: copies to the device and back, which waits for it to finish."""
    import torch

    @torch.inference_mode()
    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        probs: NDArray[np.float32] = forward(torch.from_numpy(pixels).to(device)).cpu().numpy()
        return probs

    return run
