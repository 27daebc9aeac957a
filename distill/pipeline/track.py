"""What trackers are told of runs after training: their scores on the test split."""

from __future__ import annotations

import contextlib
from typing import Any

from distill.errors import UserError
from distill.files import read_json
from distill.pipeline.experiment import Experiment
from distill.pipeline.jobs import make_job
from distill.pipeline.runs import all_runs
from distill.report.results import Results
from distill.training.tracking import Trackers


def track_scores(experiment: Experiment, results: Results) -> None:
    """Tells what each run scored, unless `results.json`, as it still is, says the same."""
    if not experiment.recipe.track:
        return
    before: dict[str, Any] = {}
    with contextlib.suppress(UserError, LookupError, TypeError):  # there is none, or none of ours
        stored = read_json(experiment.out / "results.json")
        before = {row["name"]: row.get("test") for row in stored["rows"]}
    tests = {row["name"]: row["test"] for row in results.to_json()["rows"] if "test" in row}
    for config in all_runs(experiment.recipe):
        scores = tests[config.name]
        if scores != before.get(config.name):
            job = make_job(experiment, config)
            named = {f"test/{key}": value for key, value in scores.items()}
            epochs = len(experiment.finished(config.name).rows)
            say = experiment.progress.say
            with Trackers(job.tracking, job.folder, job.options, say) as trackers:
                trackers.log_scores(epochs, named)
