"""Time and energy of each stage of an experiment, over all the times that it was continued.

Where the experiment is kept in a bucket, what a stage leaves is put there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.environment import is_main_process
from distill.files import read_json, write_json
from distill.mirror import publish
from distill.pipeline.energy import Meter
from distill.pipeline.experiment import Experiment

SECONDS, JOULES = "cache/seconds.json", "cache/joules.json"


@contextmanager
def stage(experiment: Experiment, name: str, stages: tuple[str, ...]) -> Iterator[None]:
    """Says which stage this is and what is left, and keeps what it takes, however it ends."""
    number, start = stages.index(name), time.perf_counter()
    left = expected_s(experiment)
    later = sum(left.get(other, 0.0) for other in stages[number + 1 :])
    title = f"{number + 1}/{len(stages)} {name}" if len(stages) > 1 else ""
    with experiment.progress.stage(title, left.get(name), later), Meter() as meter:
        try:
            yield
        finally:
            if is_main_process():
                _add(experiment.out, name, time.perf_counter() - start, meter.joules)
                publish(experiment.out)


def _add(out: Path, name: str, seconds: float, joules: float | None) -> None:
    spent, used = spent_s(out), used_j(out)
    if joules is not None and (name in used or name not in spent):  # all of a stage, or nothing
        used[name] = round(used.get(name, 0.0) + joules, 1)
        write_json(out / JOULES, used)
    spent[name] = round(spent.get(name, 0.0) + seconds, 1)
    write_json(out / SECONDS, spent)


def expected_s(experiment: Experiment) -> dict[str, float]:
    """Seconds that each stage of a plan still takes, about; empty where nothing was planned."""
    predicted: dict[str, float] = (experiment.plan or {}).get("predicted_s", {})
    spent = spent_s(experiment.out)
    return {name: max(0.0, s - spent.get(name, 0.0)) for name, s in predicted.items()}


def spent_s(out: Path) -> dict[str, float]:
    """Seconds that each stage took so far."""
    return _kept(out / SECONDS)


def used_j(out: Path) -> dict[str, float]:
    """Joules that each stage took so far; of those that were measured all the time."""
    return _kept(out / JOULES)


def _kept(file: Path) -> dict[str, float]:
    return dict(read_json(file, dict[str, float])) if file.is_file() else {}


def record(experiment: Experiment) -> dict[str, Any]:
    """What `results.json` has as `plan`."""
    expected = {
        key: value for key, value in (experiment.plan or {}).items() if key.startswith("predicted")
    }
    used = used_j(experiment.out)
    return {**expected, "real_s": spent_s(experiment.out), **({"energy_j": used} if used else {})}
