"""Choosing a device by its name on the command line, and getting arrays there."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.errors import UserError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of `mallopt`'s options


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps` as a device that exists here.

    `auto` is CUDA, then MPS, then the CPU, whose memory is kept from then on.

    Raises:
        UserError: This machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"unknown device {name!r}", "--device", "choose auto, cpu, cuda[:n] or mps"
        ) from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise UserError(f"no device {name!r} on this machine", "--device", "use cpu or auto")
    if device.type == "cpu":
        keep_memory()
    return device


def keep_memory() -> None:
    """Lets glibc keep what large tensors took, instead of giving it back after every step.

    It comes back page by page: without that, steps on a CPU take 6 to 30 % less time, and a teacher
    at 128 px is asked 1.7 times as fast in a virtual machine (benchmarks/LOG.md). Where there is no
    glibc nothing happens.
    """
    keep = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if keep is not None:
        for option, most in ((MMAP_THRESHOLD, 2**30), (TRIM_THRESHOLD, 2**31 - 1)):
            keep(option, most)


NOBODY_WAITS = ("cuda", "meta")  # meta copies nothing, and lets tests count who would wait


def to_device(array: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """An array as a tensor on a device; nobody waits for a copy to a CUDA device.

    From memory that is not pinned, it would wait for all that was asked of the GPU before; pinned
    memory is kept until the copy is done. On MPS nothing keeps it: there a copy that nobody waits
    for may read what the memory has been reused for.
    """
    tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type in NOBODY_WAITS)
