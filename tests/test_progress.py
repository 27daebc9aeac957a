"""What a terminal is told while it waits: stages, parts of a task, the time that is left."""

import io
import time

import pytest
from rich.console import Console

from distill.progress import Progress, span


@pytest.fixture
def terminal() -> Progress:
    """Progress on a terminal of 80 columns that nobody looks at."""
    progress = Progress()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress.live = True
    return progress


def test_the_time_left_is_that_of_this_stage_and_of_the_later_ones(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(quiet=True)
    assert progress.left_s() is None
    with progress.stage("2/6 teacher", 60.0, 300.0):
        assert progress.left_s() == 360.0
        now[0] += 40.0
        assert progress.left_s() == 320.0
        now[0] += 40.0  # it takes longer than expected, and the later ones are still to come
        assert progress.left_s() == 300.0
        assert progress.left_s(25.0) == 325.0
    assert progress.left_s() is None
    with progress.stage("1/1 teacher", None, 0.0):
        assert progress.left_s() is None


def test_a_part_has_a_bar_of_its_own(terminal) -> None:
    with (
        terminal.stage("2/6 teacher", 60.0, 300.0),
        terminal.task("lite0", 20, "images") as task,
    ):
        for epoch in (1, 2):
            task.part(f"epoch {epoch}/2", 10)
            task.advance(5)
        assert task._bars is not None
        shown = {bar.description: (bar.completed, bar.total) for bar in task._bars.tasks}
        assert shown == {"2/6 teacher lite0": (10, 20), "epoch 2/2": (5, 10)}
        task._bars.refresh()
    written = terminal.console.file.getvalue()
    assert "…" not in written  # nothing is cut off
    assert "in all" in written
    assert "epoch 2/2" in written


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89.0, "89 s"), (95.0, "1.6 min"), (750.0, "12 min"), (6000.0, "1.7 h")],
)
def test_times_are_words(seconds: float, words: str) -> None:
    assert span(seconds) == words
