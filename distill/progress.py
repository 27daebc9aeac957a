"""Progress on stderr: bars with rate and ETA on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text


class _RateColumn(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:,.0f} {task.fields['unit']}/s" if rate else "")


class Task:
    """One thing that is counted; a context manager."""

    def __init__(self, progress: Progress, title: str, total: int, unit: str) -> None:
        self._progress, self._title, self._total, self._unit = progress, title, total, unit
        self._bars: RichProgress | None = None
        self._done, self._note = 0, ""

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        if self._progress.live:
            self._bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._progress.console,
                transient=True,
            )
            self._bars.start()
            self._id = self._bars.add_task(self._title, total=self._total, unit=self._unit, note="")
        return self

    def advance(self, count: int = 1) -> None:
        """Counts `count` more as done."""
        self._done += count
        if self._bars:
            self._bars.advance(self._id, count)

    def skip(self, count: int) -> None:
        """Counts `count` as done earlier: they take no part in the rate."""
        if self._bars:
            self._bars.update(self._id, completed=count)

    def note(self, text: str) -> None:
        """Shows a word on how it is going: beside the bar, or as a line of its own."""
        self._note = text
        if self._bars:
            self._bars.update(self._id, note=text)
        else:
            self._progress.say(f"{self._title}: {text}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()
        if kind is None and self._done:
            seconds = max(1e-9, time.perf_counter() - self._start)
            speed = self._done / seconds
            rate = f"{speed:,.0f} {self._unit}/s" if speed >= 10 else f"{speed:.2g} {self._unit}/s"
            last = f", {self._note}" if self._bars and self._note else ""
            self._progress.say(f"{self._title}: {seconds:,.1f} s, {rate}{last}")


class Progress:
    """Where commands say what they do. Never on stdout, which is for results.

    Args:
        quiet: Say nothing, as on all ranks but the first.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.live = self.console.is_terminal and not quiet and sys.stderr.isatty()

    def task(self, title: str, total: int, unit: str) -> Task:
        """A counted task, to be entered with `with`."""
        return Task(self, title, total, unit)

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, soft_wrap=True)
