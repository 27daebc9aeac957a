"""The temperature at which probabilities are what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.scoring.tasks import Task

PRIOR = 0.5  # standard deviation of a temperature's logarithm, before an image was seen
BOUND = 8.0  # of temperatures and of their reciprocals


def best_temperature(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], task: Task
) -> float:
    """What to divide logits by for their probabilities to be likeliest, given the labels.

    Guo et al., 2017, arXiv:1706.04599, with a prior around 1: of few images, or of answers that
    are all right, likelihood alone ends at a bound (benchmarks/LOG.md, "Temperatures of few
    images").

    Args:
        logits: `(n, num_classes)`.
        labels: `(n,)`; or `(n, num_classes)` of 0 and 1 where labels are many.
    """
    from scipy.optimize import minimize_scalar

    truth = task.truth(labels, logits.shape[1])

    def surprise(log_temperature: float) -> float:
        probs = task.probabilities(logits / math.exp(log_temperature))
        return task.surprise(probs, truth) + 0.5 * (log_temperature / PRIOR) ** 2

    bounds = (-math.log(BOUND), math.log(BOUND))
    return math.exp(minimize_scalar(surprise, bounds=bounds, method="bounded").x)
