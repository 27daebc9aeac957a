"""torch in eager mode, channels-last, weights and activations in bfloat16."""

from __future__ import annotations

from pathlib import Path

from distill.benchmarks.engines import Device, Loaded, Settings
from distill.benchmarks.engines._torch import from_host, needs, open_run

FORMAT = "run"
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
PACKAGES = ("torch",)
CONCURRENT = True
unavailable = needs


def load(model: Path, settings: Settings) -> Loaded:
    """Opens a run directory on the CPU or the GPU."""
    forward = open_run(model, settings, channels_last=True, dtype="bfloat16")
    return Loaded(from_host(forward, settings.device), "bf16")
