"""TensorBoard's event files, in `track/tensorboard/RUN`: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.training.trackers import TrackedRun

PACKAGES = ("tensorboard",)


class Tracker:
    """A run's folder of event files, one more for each time that it is continued."""

    def __init__(self, run: TrackedRun, step: int) -> None:
        from torch.utils import tensorboard

        library: Any = tensorboard  # untyped in torch
        # `purge_step` hides what earlier files have from there on: an epoch that is told again, or
        # the run that had this name before.
        folder = run.folder / "tensorboard" / run.name
        self._writer = library.SummaryWriter(str(folder), purge_step=step)
        if step == 0:
            # Not `add_hparams`: it writes a file beside this one, and a reader that has gone on to
            # the later of two files never sees what the earlier one gets.
            for summary in library.writer.hparams(run.options, {}):
                self._writer.file_writer.add_summary(summary)
            self._writer.flush()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Ends the file."""
        self._writer.close()
