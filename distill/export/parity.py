"""How far two sets of probabilities of the same images agree, and what may be shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import TaskName
from distill.scoring.metrics_multi import THRESHOLD
from distill.scoring.tasks import task_of

Probs = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Limits:
    """What a file may differ by from the one that it was made from.

    Attributes:
        agreement: Smallest share of images with the same answer, in percent.
        difference: Largest difference between probabilities.
        rounding: A difference of no more than this changes no answer.
    """

    agreement: float = 99.9
    difference: float = 1e-3
    rounding: float = 1e-5  # what float32 sums in another order may differ by; commonly 1e-6

    def allow(self, row: Mapping[str, Any]) -> bool:
        """Whether a file of this `agreement` and `max_prob_difference` may be shipped."""
        close = row["max_prob_difference"] <= self.difference
        return bool(close and row["agreement"] >= self.agreement)


FLOAT32 = Limits()


@dataclass(frozen=True)
class Parity:
    """How two runtimes agree on `n` images.

    Attributes:
        agreement: Share of images with the same top class or, where labels are many, the same set
            of labels, in percent.
    """

    n: int
    agreement: float
    max_prob_difference: float


def answer_rule(metadata: dict[str, Any]) -> tuple[TaskName, list[float] | None]:
    """The task of a file, and where labels are many the threshold of each."""
    if metadata.get("task") != "multi":
        return "single", None
    return "multi", [metadata["thresholds"].get(name, THRESHOLD) for name in metadata["names"]]


def compare_probs(
    probs: Probs,
    expected: Probs,
    task: TaskName = "single",
    thresholds: list[float] | None = None,
    limits: Limits = FLOAT32,
) -> Parity:
    """Parity of probabilities `(n, classes)`; one that is not a number is as far off as can be."""
    probs = np.nan_to_num(probs, nan=-1.0)
    difference = np.abs(probs - expected)
    settled = np.where(difference <= limits.rounding, expected, probs)
    same = task_of(task).agreement(settled, expected, thresholds)
    return Parity(len(probs), same, float(difference.max()))


def in_words(row: Mapping[str, Any]) -> str:
    """What `Shipment.judge` found."""
    main = next(key for key in row if f"reference_{key}" in row)
    return (
        f"{main} {row[main]:.2f} % on validation (reference {row[f'reference_{main}']:.2f}), same "
        f"answer on {row['agreement']:.2f} % of {row['n']:,}, "
        f"largest difference {row['max_prob_difference']:.1e}"
    )
