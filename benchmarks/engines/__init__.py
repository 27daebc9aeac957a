"""Engines that models are timed on, one file each: the folder is the registry.

An engine's file has `FORMAT`, `DEVICES`, `PACKAGES`, `CONCURRENT` and two functions,
`unavailable(device)` and `load(model, settings)`, see `EngineModule`. It imports its library inside
of them only, so that an engine whose library is missing can be listed and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from distill.registry import find_module, names_in

FOLDER = "benchmarks.engines"
Device = Literal["cpu", "cuda"]
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Settings:
    """What all engines of a table have in common: threads within an operator, and the device."""

    threads: int
    device: Device = "cpu"


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run.

    Attributes:
        run: uint8 pixels `(batch, height, width, 3)` to float32 probabilities `(batch, classes)`,
            from host memory to host memory; all work is done when it returns.
        precision: What the engine computes in, where it is not what the file says.
    """

    run: Run
    precision: str | None = None


class EngineModule(Protocol):
    """What a file in this folder offers.

    Attributes:
        FORMAT: What it opens: `onnx` files, or a `run` directory.
        DEVICES: Devices it can run on.
        PACKAGES: Modules that it needs; they are imported before its functions are called.
        CONCURRENT: Whether several threads may call one loaded model at once.
    """

    FORMAT: Literal["onnx", "run"]
    DEVICES: tuple[Device, ...]
    PACKAGES: tuple[str, ...]
    CONCURRENT: bool

    def unavailable(self, device: Device) -> str | None:
        """Why this machine cannot run it, None if it can; imports what else `load` needs."""

    def load(self, model: Path, settings: Settings) -> Loaded:
        """Opens a model.

        Raises:
            UserError: This engine cannot take it.
        """


def engine_names() -> list[str]:
    """Names of all engines of the folder."""
    return names_in(FOLDER)


def find_engines(names: Sequence[str]) -> dict[str, EngineModule]:
    """The engines of `bench.engines` by name; `all` stands for the whole folder.

    Raises:
        UserError: There is none of such a name.
    """
    requested = [other for name in names for other in (engine_names() if name == "all" else [name])]
    return {name: find_engine(name) for name in requested}


def find_engine(name: str) -> EngineModule:
    """The engine of a name or of a dotted module.

    Raises:
        UserError: There is none.
    """
    module: Any = find_module(FOLDER, name, "bench.engines", "load")
    return cast(EngineModule, module)


def reason_against(name: str, device: Device) -> str | None:
    """Why an engine cannot run here, None if it can."""
    engine = find_engine(name)
    if device not in engine.DEVICES:
        return f"it is for {' and '.join(engine.DEVICES)}"
    for package in engine.PACKAGES:
        try:
            import_module(package)
        except ImportError as error:
            return f"{package} cannot be imported: {error}"
    return engine.unavailable(device)
