"""What the engines on onnxruntime share: a session of one execution provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.benchmarks.engines import Device, Settings
from distill.errors import UserError
from distill.runtime.session import open_session

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def missing_provider(provider: str) -> str | None:
    """What this build of onnxruntime lacks, None if it has the provider."""
    import onnxruntime as ort

    if provider in ort.get_available_providers():
        return None
    return f"this onnxruntime has no {provider}"


def open_on(
    model: Path, settings: Settings, provider: str = "", options: dict[str, Any] | None = None
) -> Any:
    """A session whose first choice is the provider, by default that of the device.

    Raises:
        UserError: onnxruntime cannot read the file, or would run it on another provider.
    """
    provider = provider or PROVIDERS[settings.device]
    if provider == PROVIDERS["cpu"]:
        return open_session(model, settings.threads)
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN as torch or nvidia's packages brought them
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = settings.threads
    chosen.log_severity_level = 4
    fallbacks = [PROVIDERS["cuda"], PROVIDERS["cpu"]]
    providers = [(provider, options or {}), *(name for name in fallbacks if name != provider)]
    session = ort.InferenceSession(str(model), chosen, providers=providers)
    if session.get_providers()[0] != provider:  # onnxruntime falls back without an error
        raise UserError(f"{provider} does not start", str(model), "its libraries may be missing")
    return session


def needs(device: Device) -> str | None:
    """Why onnxruntime cannot use a device here."""
    return missing_provider(PROVIDERS[device])
