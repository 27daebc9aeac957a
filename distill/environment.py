"""What this process runs in: versions, machine, commit, command, who else was started; and what it
tells nobody."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("distillate", "torch", "torchvision", "timm", "numpy", "onnx"),
    *("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "pillow", "KD_Lib"),
)

# onnxruntime's wheels upload usage events from 1.31 on, unless told not to before they are imported
# (disable_telemetry_events comes too late); the others are asked by those who read them.
SILENCE = {
    "ORT_DISABLE_TELEMETRY": "1",
    "ORT_TELEMETRY_DISABLED": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
}


def send_nothing() -> None:
    """Tells libraries to report nothing to anybody, unless the user has told them otherwise."""
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process; torch is asked only if already loaded."""
    import psutil

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    record = {
        "versions": versions,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "git_commit": _git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "start": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        record["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            record["gpu"] = torch.cuda.get_device_name()
    return record


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    return None


def num_processes() -> int:
    """How many processes a launcher such as `torchrun` started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the first of them."""
    return os.environ.get("RANK", "0") == "0"
