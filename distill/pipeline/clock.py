"""What each stage of an experiment took, over all the times that it was run and continued."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.files import read_json, write_json
from distill.pipeline.experiment import Experiment

SECONDS = "cache/seconds.json"


@contextmanager
def stage(experiment: Experiment, name: str, stages: tuple[str, ...]) -> Iterator[None]:
    """Says which stage this is and what is left, and keeps what it takes, however it ends."""
    number, start = stages.index(name), time.perf_counter()
    left = expected_s(experiment)
    later = sum(left.get(other, 0.0) for other in stages[number + 1 :])
    title = f"{number + 1}/{len(stages)} {name}" if len(stages) > 1 else ""
    with experiment.progress.stage(title, left.get(name), later):
        try:
            yield
        finally:
            spent = spent_s(experiment.out)
            spent[name] = round(spent.get(name, 0.0) + time.perf_counter() - start, 1)
            write_json(experiment.out / SECONDS, spent)


def expected_s(experiment: Experiment) -> dict[str, float]:
    """Seconds that each stage of a plan still takes, about; empty where nothing was planned."""
    predicted: dict[str, float] = (experiment.plan or {}).get("predicted_s", {})
    spent = spent_s(experiment.out)
    return {name: max(0.0, s - spent.get(name, 0.0)) for name, s in predicted.items()}


def spent_s(out: Path) -> dict[str, float]:
    """Seconds that each stage took so far."""
    file = out / SECONDS
    return dict(read_json(file, dict[str, float])) if file.is_file() else {}


def record(experiment: Experiment) -> dict[str, Any]:
    """What `results.json` has as `plan`."""
    expected = {
        key: value for key, value in (experiment.plan or {}).items() if key.startswith("predicted")
    }
    return {**expected, "real_s": spent_s(experiment.out)}
