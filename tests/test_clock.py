"""The time that is left for a whole pipeline: of its plan, less what its stages took already."""

import contextlib
import time
from types import SimpleNamespace

import pytest

from distill.files import write_json
from distill.pipeline.clock import SECONDS, spent_s, stage
from distill.progress import Progress

STAGES = ("check", "teacher", "student", "export")


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """A clock that the test moves."""
    seconds = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    return seconds


def experiment(out, **predicted_s: float) -> SimpleNamespace:
    plan = {"predicted_s": predicted_s} if predicted_s else None
    return SimpleNamespace(out=out, plan=plan, progress=Progress(quiet=True))


def test_what_is_left_counts_earlier_attempts_and_later_stages(tmp_path, now):
    planned = experiment(tmp_path, check=2.0, teacher=60.0, student=90.0, export=30.0)
    write_json(tmp_path / SECONDS, {"check": 5.0, "teacher": 20.0, "student": 100.0})
    with stage(planned, "teacher", STAGES):
        assert planned.progress.left_s() == 60.0 - 20.0 + 0.0 + 30.0  # the student is overdue
        now[0] += 15.0
        assert planned.progress.left_s() == 25.0 + 30.0
    assert spent_s(tmp_path)["teacher"] == 35.0


def test_a_stage_that_is_stopped_has_taken_its_time(tmp_path, now):
    planned = experiment(tmp_path, teacher=60.0, export=30.0)
    with contextlib.suppress(KeyboardInterrupt), stage(planned, "teacher", STAGES):
        now[0] += 45.0
        raise KeyboardInterrupt
    with stage(planned, "teacher", STAGES):
        assert planned.progress.left_s() == 15.0 + 30.0


def test_nobody_says_what_is_left_where_nothing_was_planned(tmp_path, now):
    unplanned = experiment(tmp_path)
    with stage(unplanned, "teacher", STAGES):
        assert unplanned.progress.left_s() is None
