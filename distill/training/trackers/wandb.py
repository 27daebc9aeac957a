"""Weights & Biases, offline unless `WANDB_MODE` says otherwise: `wandb sync OUT/track/wandb/*`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from distill.training.trackers import TrackedRun

PACKAGES = ("wandb",)


class Tracker:
    """A W&B run of the project that `WANDB_PROJECT` names, else of one named as the experiment."""

    def __init__(self, run: TrackedRun, step: int) -> None:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or run.experiment,
            group=run.experiment,
            name=run.name,
            id=run.id,
            resume="allow",
            config=run.options,
            dir=run.folder,
            settings=wandb.Settings(silent=True, console="off"),  # the terminal is not its own
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a row to the run's history."""
        self._run.log(dict(numbers), step=step)

    def close(self, finished: bool) -> None:
        """Ends the session, as a failed one where training was interrupted."""
        self._run.finish(exit_code=0 if finished else 1)
