"""MLflow: the store that `MLFLOW_TRACKING_URI` names, else `track/mlflow.db` of the experiment.

A run is found again by a tag. Only the client is used, so that nothing global is set.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping

from distill.training.trackers import TrackedRun

PACKAGES = ("mlflow", "sqlalchemy", "alembic")  # the latter two are its local store's
TAG = "distillate.run"
MOST_PARAMS = 100  # in one request
NOT_OF_KEYS = re.compile(r"[^/\w.\- :]")  # such as what names of classes may have


class Tracker:
    """A run of an MLflow experiment."""

    def __init__(self, run: TrackedRun, step: int) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it tells of every new table
        named = os.environ.get("MLFLOW_TRACKING_URI")
        run.folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(named or f"sqlite:///{run.folder / 'mlflow.db'}")
        experiment = self._experiment(run, is_local=not named)
        same = f"tags.`{TAG}` = '{run.id}'"
        known = self._client.search_runs([experiment], same, max_results=1)
        self._told: set[int] = set()  # steps that it has, of which MLflow would keep a second point
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            for metric in list(known[0].data.metrics)[:1]:
                history = self._client.get_metric_history(self._id, metric)
                self._told = {point.step for point in history}
            return
        begun = self._client.create_run(experiment, run_name=run.name, tags={TAG: run.id})
        self._id = begun.info.run_id
        params = [Param(NOT_OF_KEYS.sub("_", key), str(v)) for key, v in run.options.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + MOST_PARAMS])

    def _experiment(self, run: TrackedRun, is_local: bool) -> str:
        """The id of the experiment, which is made if need be."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.experiment
        if known := self._client.get_experiment_by_name(name):
            return str(known.experiment_id)
        # Else the current folder would get one for artifacts, of which there are none.
        place = (run.folder / "mlflow").as_uri() if is_local else None
        return str(self._client.create_experiment(name, artifact_location=place))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a point to each metric, unless the run has one of this step."""
        from mlflow.entities import Metric

        if step not in self._told:
            now = int(time.time() * 1000)
            metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
            self._client.log_batch(self._id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Says how the run ended."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")
