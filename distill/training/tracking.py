"""What the trackers of a recipe are told of a run, once each, whatever stops it in between.

A run has an id and remembers how many epochs each tracker was told of, in `tracking.json` of its
directory: so a run that goes on is the same one there, and what a tracker missed is made up for. A
tracker that fails is left out from then on; training never waits for it to be mended.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from typing_extensions import TypedDict

from distill.errors import UserError, first_line
from distill.files import read_json, write_json
from distill.training.trackers import TrackedRun, Tracker, find_tracker

FILE = "tracking.json"
FOLDER = "track"  # of an experiment's directory
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Tracking:
    """Who is told of the runs of an experiment.

    Attributes:
        names: The trackers; () for none.
        out: Directory of the experiment, which is called by its name.
    """

    names: tuple[str, ...] = ()
    out: Path = Path()

    @property
    def experiment(self) -> str:
        """Its name, of characters that every tracker takes."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.out.resolve().name)[:100] or "distill"

    @property
    def folder(self) -> Path:
        """Where what trackers keep lies."""
        return self.out.resolve() / FOLDER


class Told(TypedDict):
    """Content of `tracking.json`: the run's id, and epochs that were told, by tracker."""

    id: str
    told: dict[str, int]


class Trackers:
    """The trackers of one run, none of which can stop it; a context manager that closes them.

    Args:
        run_folder: Directory of the run.
        options: What the run is made of.
        say: Is told in a line which tracker failed, and why.
    """

    def __init__(
        self,
        tracking: Tracking,
        run_folder: Path,
        options: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._tracking, self._options, self._say = tracking, options, say
        self._run_folder = run_folder
        self._known = _read(run_folder / FILE)
        self._open: dict[str, Tracker] = {}

    def begin(self, rows: Sequence[Row]) -> None:
        """Opens the trackers, and tells each the epochs that it has not heard of.

        Args:
            rows: Those of the epochs so far.
        """
        if max(self._known["told"].values(), default=0) > len(rows):  # it began again: another run
            self._known = _unknown()
        self._write()
        for name in self._tracking.names:
            self._guarded(name, partial(self._begin, name, rows))
        self._write()

    def log(self, row: Row) -> None:
        """Tells what the next epoch measured."""
        for name in list(self._open):
            self._guarded(name, partial(self._tell, name, row))
        self._write()

    def log_scores(self, epochs: int, scores: Row) -> None:
        """Tells what a finished run scored, as of the step after its last epoch.

        But not those who did not follow it to its end.
        """
        for name in self._tracking.names:
            if self._known["told"].get(name) == epochs:
                self._guarded(name, partial(self._begin, name, ()))
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.log, epochs, _numbers(scores)))

    def _begin(self, name: str, rows: Sequence[Row]) -> None:
        run = TrackedRun(
            self._known["id"],
            self._run_folder.name,
            self._tracking.experiment,
            flat(self._options),
            self._tracking.folder,
        )
        told = self._known["told"].get(name, 0)
        self._open[name] = find_tracker(name).Tracker(run, told)
        for row in rows[told:]:
            self._tell(name, row)

    def _tell(self, name: str, row: Row) -> None:
        step = self._known["told"].get(name, 0)
        self._open[name].log(step, _numbers(row))
        self._known["told"][name] = step + 1

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        """Does something with a tracker, and nothing more with it if that fails."""
        try:
            call()
        except Exception as error:  # whatever a package, a disk or a network raises
            if tracker := self._open.pop(name, None):
                with contextlib.suppress(Exception):
                    tracker.close(finished=False)
            what = f"{name} failed ({first_line(error)})"
            run = self._run_folder.name
            self._say(f"warning: {what}: it hears no more of {run}, whose metrics.csv has all")

    def _write(self) -> None:
        if self._tracking.names:
            write_json(self._run_folder / FILE, self._known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.close, kind is None))
        self._open.clear()


def _read(place: Path) -> Told:
    """What is known of a run; a new id where that is nothing, or damaged."""
    with contextlib.suppress(UserError):
        known: Told = read_json(place, Told)
        return known
    return _unknown()


def _numbers(row: Row) -> dict[str, float]:
    """What can be drawn of a row."""
    return {k: float(v) for k, v in row.items() if k != "epoch" and isinstance(v, int | float)}


def _unknown() -> Told:
    return {"id": uuid.uuid4().hex, "told": {}}


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Options by dotted keys, and what no tracker has a type for as text."""
    found: dict[str, str | int | float | bool] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float):
            found[f"{prefix}{key}"] = value
        else:
            found[f"{prefix}{key}"] = "none" if value is None else ", ".join(map(str, value))
    return found
