"""Energy as the machine's own counters have it, other work on it included.

Processors and memory by Linux's powercap (RAPL; Khan et al., 2018, doi:10.1145/3177754), which
mostly only root may read; NVIDIA's GPUs by NVML, through the package nvidia-ml-py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

POWERCAP = Path("/sys/class/powercap")
POLL_S = 30.0  # between readings: a busy processor's counter begins anew after some ten minutes


class Counter(NamedTuple):
    """A counter of joules.

    Attributes:
        range_j: Where it begins anew; infinite for one that does not.
    """

    read_j: Callable[[], float]
    range_j: float = float("inf")


def counters() -> list[Counter]:
    """All that may be read here."""
    return [*_processors(), *_gpus()]


def _processors() -> Iterator[Counter]:
    """Packages, and the memory beside each; cores and the like are parts of a package."""
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):
        try:
            if not (zone / "name").read_text().startswith(("package", "dram")):
                continue
            file = zone / "energy_uj"
            range_j = int((zone / "max_energy_range_uj").read_text()) / 1e6
            int(file.read_text())
        except (OSError, ValueError):  # not ours to read
            continue
        yield Counter(lambda file=file: int(file.read_text()) / 1e6, range_j)  # type: ignore[misc]


def _gpus() -> Iterator[Counter]:
    """The GPUs that this process may use."""
    if not torch.cuda.is_available():
        return
    try:
        import pynvml

        pynvml.nvmlInit()
        for index in range(torch.cuda.device_count()):
            uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            millijoules: Any = pynvml.nvmlDeviceGetTotalEnergyConsumption
            millijoules(handle)
            yield Counter(lambda ask=millijoules, of=handle: ask(of) / 1e3)  # type: ignore[misc]
    except Exception:  # not installed, a driver without it, a card before Volta: NVML's own errors
        return


class Meter:
    """Adds up what counters count while it is open."""

    def __init__(self) -> None:
        self._counters = counters()
        self._last = [counter.read_j() for counter in self._counters]
        self._total, self._lock, self._ended = 0.0, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        if self._counters:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()

    @property
    def joules(self) -> float | None:
        """So far; None where nothing can be read, or not any more."""
        self._read()
        return self._total if self._counters else None

    def _poll(self) -> None:
        while not self._ended.wait(POLL_S):
            self._read()

    def _read(self) -> None:
        with self._lock:
            try:
                now = [counter.read_j() for counter in self._counters]
            except Exception:  # a counter that went away: half of a machine is no figure
                self._counters.clear()
                return
            for counter, before, after in zip(self._counters, self._last, now, strict=True):
                self._total += after - before + (counter.range_j if after < before else 0.0)
            self._last = now
