"""What the parts of the page are made from, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill.data.prepare import ImageData
from distill.pipeline.experiment import Experiment
from distill.pipeline.page.answers import Answers
from distill.report import plots
from distill.report.page import Plot, plot_of
from distill.report.results import Results
from distill.scoring.tasks import Task, task_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Content:
    """An experiment and its results.

    Attributes:
        probs: What each row answers on the test split, `(images, classes)`, by its name.
    """

    experiment: Experiment
    results: Results
    probs: Mapping[str, NDArray[Any]]

    @property
    def data(self) -> ImageData:
        """The images."""
        return self.experiment.data

    @property
    def task(self) -> Task:
        """What their labels are."""
        return task_of(self.data.task)

    @cached_property
    def answers(self) -> Answers | None:
        """Of the file that ships; None where nothing was exported."""
        name = self.results.verdict.get("shipped", "")
        if name not in self.probs:
            return None
        return Answers(self.experiment.out / "export" / name, self.data, self.probs[name])

    @cached_property
    def shown(self) -> dict[str, NDArray[np.float64]]:
        """Answers of the best teacher, the fp32 file and what ships."""
        names = (self.results.verdict.get(k) for k in ("teacher", "shipped"))
        kept = dict.fromkeys((*names, "student.fp32.onnx"))
        return {name: self.probs[name] for name in kept if name and name in self.probs}

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """Which labels the test images have."""
        return self.task.truth(self.data.test.labels, len(self.data.classes))

    def plot(self, name: str, figure: Figure | None, alt: str) -> list[Plot]:
        """A plot in `plots/`, for the page; nothing for none."""
        if figure is None:
            return []
        file = self.experiment.out / "plots" / f"{name}.png"
        plots.save(figure, file)
        return [plot_of(file, alt)]


def cell(value: float | None, digits: int) -> str:
    """A number as a table has it; what was not measured is blank."""
    return "" if value is None else f"{value:,.{digits}f}"
