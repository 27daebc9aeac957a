"""The machine that a table was measured on, as far as it tells; see also `run.environment`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# What decides which kernels a CPU gets, as Linux spells it, on x86 and on Arm.
FLAGS: tuple[str, ...] = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
)
FLAGS += ("amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve")
GPU_FIELDS = {
    "name": "name",
    "driver_version": "driver",
    "clocks.sm": "clock_mhz",
    "clocks.max.sm": "clock_max_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.limit": "power_limit_w",
    "memory.total": "memory_mib",
}
MOST_BUSY = 10.0  # percent of all cores before anything is timed, above which a table has a warning
LOOK_S = 0.5  # how long one looks for that


def machine() -> dict[str, Any]:
    """Cores, flags, clocks, load and GPUs; what cannot be read is absent.

    `cpu_busy_percent` is the share of all cores that were at work during the last half second;
    `load` the average number of running processes over 1, 5 and 15 minutes.
    """
    import psutil

    memory, frequency = psutil.virtual_memory(), _frequency()
    record = {
        "cpu_flags": cpu_flags(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_usable": usable_cores(),
        "cpu_clock_mhz": getattr(frequency, "current", 0.0) or None,
        "cpu_clock_max_mhz": getattr(frequency, "max", 0.0) or None,
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "memory_available_bytes": memory.available,
        "cpu_busy_percent": psutil.cpu_percent(interval=LOOK_S),
        "load": [round(load, 2) for load in psutil.getloadavg()],
        "gpus": gpus(),
    }
    return {key: value for key, value in record.items() if value not in (None, [])}


def usable_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def resolve_threads(threads: int) -> int:
    """The number itself; for 0 the physical cores, as far as this process may use them."""
    import psutil

    return threads or min(int(psutil.cpu_count(logical=False) or usable_cores()), usable_cores())


def busy_warning(percent: float) -> str | None:
    """What to say of a machine that had other work before anything was timed."""
    if percent <= MOST_BUSY:
        return None
    return f"the machine was not idle: {percent:.0f} % of its cores were at work before the start"


def cpu_flags() -> list[str]:
    """Instruction sets that matter here and that this CPU has; empty where it cannot be read."""
    lines = (_text(Path("/proc/cpuinfo")) or "").splitlines()
    listed = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    known = set(listed.partition(":")[2].split())
    return [flag for flag in FLAGS if flag in known]


def gpus() -> list[dict[str, str]]:
    """NVIDIA's GPUs as its driver describes them; empty without a driver."""
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return parse_gpus(done.stdout)
    return []


def parse_gpus(listing: str) -> list[dict[str, str]]:
    """A line per GPU, its fields in the order of `GPU_FIELDS`; unknown ones are left out."""
    rows = [[cell.strip() for cell in line.split(",")] for line in listing.splitlines()]
    return [
        {
            name: cell
            for name, cell in zip(GPU_FIELDS.values(), row, strict=False)
            if not cell.startswith("[")  # [N/A], [Not Supported]
        }
        for row in rows
    ]


def _frequency() -> Any:
    import psutil

    with contextlib.suppress(OSError, NotImplementedError, AttributeError):
        return psutil.cpu_freq()
    return None


def _text(file: Path) -> str | None:
    with contextlib.suppress(OSError):
        return file.read_text().strip()
    return None
