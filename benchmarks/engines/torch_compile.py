"""torch.compile: code of its own for every batch size, made when it is first met."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from distill.benchmarks.engines import Device, Loaded, Settings
from distill.benchmarks.engines._torch import from_host, needs, open_run

FORMAT = "run"
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
PACKAGES = ("torch", "torch._dynamo")  # the second is what torch.compile would import
CONCURRENT = False
MOST_SIZES = 64  # beyond torch's own 8, further batch sizes would silently run in eager mode


def unavailable(device: Device) -> str | None:
    """Why this machine cannot run it."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        return "torch.compile needs a C++ compiler"
    missing: str | None = needs(device)
    return missing


def load(model: Path, settings: Settings) -> Loaded:
    """Opens a run directory; compiling is left to the first run of each batch size."""
    import torch

    torch._dynamo.config.recompile_limit = MOST_SIZES
    forward = open_run(model, settings, channels_last=True, dtype="float32")
    compiled = torch.compile(forward, dynamic=False)
    return Loaded(from_host(compiled, settings.device), "fp32")
