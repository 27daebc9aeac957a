"""Trackers of experiments, one file each, found by name: they are told of every epoch of a run.

A tracker's file has `PACKAGES` and a class `Tracker`, see `TrackerModule`. It imports its package
when a run is opened, never before. What it raises costs the run one line (see `tracking`), so it
need not be careful; what it prints would stand between results, so it has to be silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

from distill.errors import UserError
from distill.registry import find_module

FOLDER = "training.trackers"


@dataclass(frozen=True)
class TrackedRun:
    """A run as its trackers know it.

    Attributes:
        id: 32 hexadecimal digits, the same for a run that was stopped and goes on.
        experiment: Name of the experiment that it is of, of letters, digits, `.`, `_` and `-`.
        options: What it is made of, by dotted keys.
        folder: Where what trackers keep of this experiment lies, an absolute path.
    """

    id: str
    name: str
    experiment: str
    options: dict[str, str | int | float | bool]
    folder: Path


class Tracker(Protocol):
    """A run that is open in a tracker."""

    def __init__(self, run: TrackedRun, step: int) -> None:
        """Opens a run, or goes on with it where the tracker has one of its id.

        Args:
            step: The first one that will be logged; what the tracker has from there on is of a
                process that died before it could say so.
        """

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds what was measured at a step, the number of an epoch, so that others can see it."""

    def close(self, finished: bool) -> None:
        """Ends the session.

        Args:
            finished: Training is over; False where it was interrupted, and may go on later.
        """


class TrackerModule(Protocol):
    """What a file in this folder offers.

    Attributes:
        PACKAGES: What has to be installed, by the names that both Python and pip know.
    """

    PACKAGES: tuple[str, ...]
    Tracker: type[Tracker]


def find_tracker(name: str) -> TrackerModule:
    """The tracker of a name or of a dotted module.

    Raises:
        UserError: There is none.
    """
    module: Any = find_module(FOLDER, name, "track", "Tracker")
    return cast(TrackerModule, module)


def check_installed(names: Sequence[str]) -> None:
    """Raises `UserError` where a tracker lacks a package; it says what to install."""
    for name in names:
        packages = getattr(find_tracker(name), "PACKAGES", ())  # one's own module may need none
        missing = [package for package in packages if not _has(package)]
        if missing:
            hint = f"pip install {' '.join(missing)}, or leave it out of `track`"
            raise UserError(f"{name} needs {' and '.join(missing)}", "track", hint)


def _has(package: str) -> bool:
    """Whether a package is installed.

    Its folder without code, such as the `wandb/` that W&B leaves behind, is none.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
