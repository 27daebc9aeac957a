"""trackio: where it keeps all its projects, `TRACKIO_DIR` or its cache: `trackio show`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

from distill.training.trackers import TrackedRun

PACKAGES = ("trackio",)


class Tracker:
    """A run of a project that is named as the experiment."""

    def __init__(self, run: TrackedRun, step: int) -> None:
        import trackio

        # A run is found again by its name alone, among those of all experiments of this name.
        name = f"{run.name}-{run.id[:8]}"
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = trackio.init(
                run.experiment, name, config=run.options, resume="allow", embed=False
            )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a row to the run."""
        self._run.log(dict(numbers), step=step)

    def close(self, finished: bool) -> None:
        """Waits until all is written."""
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()  # of the run alone, it would be ended once more at exit, aloud
