"""Progress on stderr: bars with rate and time left on a terminal, plain lines otherwise."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from distill.errors import printable


class _LeftColumn(TextColumn):
    """What is left of all stages, on the line of the whole task."""

    def __init__(self, progress: Progress) -> None:
        super().__init__("")
        self._progress = progress

    def render(self, task: RichTask) -> Text:
        left = self._progress.left_s(task.time_remaining or 0.0)
        return Text("" if left is None or task.id else f"{span(left)} in all")


def span(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.1f} min" if minutes < 9.95 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


class Task:
    """One thing that is counted, in parts perhaps; a context manager."""

    def __init__(self, progress: Progress, title: str, total: int, unit: str) -> None:
        self._progress, self._title, self._total, self._unit = progress, title, total, unit
        self._bars: RichProgress | None = None
        self._done = 0
        self._part: TaskID | None = None

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        if self._progress.live:
            self._bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                _LeftColumn(self._progress),
                console=self._progress.console,
                transient=True,
            )
            self._bars.start()
            stage = self._progress.stage_title
            known = stage.endswith(self._title)
            title = stage if known else f"{stage} {self._title}".strip()
            self._id = self._bars.add_task(title, total=self._total)
        return self

    def part(self, title: str, total: int) -> None:
        """Begins a part, such as an epoch, which gets a bar of its own until the next begins."""
        if self._bars:
            if self._part is not None:
                self._bars.remove_task(self._part)
            self._part = self._bars.add_task(title, total=total)

    def advance(self, count: int = 1) -> None:
        """Counts `count` more as done."""
        self._done += count
        if self._bars:
            self._bars.advance(self._id, count)
            if self._part is not None:
                self._bars.advance(self._part, count)

    def skip(self, count: int) -> None:
        """Counts `count` as done earlier: they take no part in the rate."""
        if self._bars:
            self._bars.update(self._id, completed=count)

    def note(self, text: str) -> None:
        """Says how it is going, in a line above the bar."""
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
            self._progress.say(f"{self._title}: {seconds:,.1f} s, {rate}")


class Progress:
    """Where commands say what they do. Never on stdout, which is for results.

    Args:
        quiet: Say nothing, as on all ranks but the first.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.live = self.console.is_terminal and not quiet and sys.stderr.isatty()
        self.stage_title = ""
        self._ends: tuple[float, float] | None = None  # of this stage and of all, on the clock

    @contextmanager
    def stage(self, title: str, expected_s: float | None, later_s: float) -> Iterator[None]:
        """Says that a stage of several begins, and what time is left in all.

        Args:
            title: Its number and name.
            expected_s: Seconds that it will take; None where nobody knows.
            later_s: Seconds of those that come after it.
        """
        left = ""
        if expected_s is not None:
            now = time.monotonic()
            self._ends = now + expected_s, later_s
            left = f", about {span(expected_s)}; all that is left, {span(expected_s + later_s)}"
        self.stage_title = title
        if title:
            self.say(f"{title}{left}")
        try:
            yield
        finally:
            self.stage_title, self._ends = "", None

    def left_s(self, task_s: float = 0.0) -> float | None:
        """Seconds that all stages still take; None where nobody knows.

        Args:
            task_s: Seconds that the task at hand still takes, whatever was expected.
        """
        if self._ends is None:
            return None
        end, later = self._ends
        return max(task_s, end - time.monotonic()) + later

    def task(self, title: str, total: int, unit: str) -> Task:
        """A counted task, to be entered with `with`."""
        return Task(self, title, total, unit)

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(printable(text), markup=False, soft_wrap=True)
