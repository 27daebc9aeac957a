"""What the labels of an image are, and so what a model's answers mean; numpy only.

The name of a task travels with data, contracts and files; what follows from it is here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.config import TaskName
from distill.scoring.metrics import Probs, sigmoid, softmax
from distill.scoring.metrics_multi import THRESHOLD, label_sets, map_parts

TINY = 1e-12  # least probability that a logarithm is taken of


@dataclass(frozen=True)
class Task:
    """One class per image, or any number of labels.

    Attributes:
        scores: Of validation, the one that a table leads with first.
        activation: What makes probabilities of logits.
        threshold: What a probability has to reach to be an answer, where nothing was tuned.
        agreement_key: Name of the share of images on which two models agree, in `results.json`.
    """

    name: TaskName
    scores: tuple[str, ...]
    activation: str
    threshold: float
    agreement_key: str

    @property
    def main_score(self) -> str:
        """The score that a table leads with."""
        return self.scores[0]

    def probabilities(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Of logits `(n, num_classes)`: adding up to 1, or each on its own."""
        return softmax(logits) if self is SINGLE else sigmoid(logits)

    def answers(self, probs: Probs, thresholds: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Which labels each image is given, `(n, num_classes)`: the likeliest, or any number.

        Args:
            probs: `(n, num_classes)`.
            thresholds: Of the labels, `(num_classes,)`; None for 0.5 throughout. Where an image
                has one label, the likeliest is its answer, whatever its threshold.
        """
        if self is SINGLE:
            return self.truth(probs.argmax(axis=1), probs.shape[1])
        return label_sets(probs, thresholds)

    def truth(self, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.bool_]:
        """Which labels each image has, `(n, num_classes)`, of labels as `score` takes them."""
        flags: NDArray[np.bool_] = (
            labels == 1 if labels.ndim == 2 else labels[:, None] == np.arange(num_classes)
        )
        return flags

    def parts(self, probs: Probs, truth: NDArray[np.bool_]) -> NDArray[Any]:
        """What each image adds to the main score, `(n,)`, whose mean is that, as a share.

        Whether its answer is right, as bool; of several labels, see `metrics_multi.map_parts`.

        Args:
            probs: `(n, num_classes)`.
            truth: `(n, num_classes)`, as of `truth`.
        """
        if self is SINGLE:
            return np.asarray((self.answers(probs) == truth).all(axis=1))
        return map_parts(probs, truth)

    def agreement(self, probs: Probs, other: Probs, thresholds: ArrayLike | None = None) -> float:
        """Share of images with the same answer, in percent; arguments as of `answers`."""
        same = self.answers(probs, thresholds) == self.answers(other, thresholds)
        return 100.0 * float(same.all(axis=1).mean())

    def surprise(self, probs: Probs, truth: NDArray[np.bool_]) -> float:
        """Negative log-likelihood of the labels that images have, summed, in nats.

        Args:
            probs: `(n, num_classes)`; they count as 1e-12 at least.
            truth: `(n, num_classes)`, as of `truth`.
        """
        return float(self.losses(probs, truth).sum())

    def losses(self, probs: Probs, truth: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Cross-entropy of each image in nats, `(n,)`; of several labels, the sum of each one's.

        Args:
            probs: `(n, num_classes)`; they count as 1e-12 at least.
            truth: Which labels the images have, `(n, num_classes)`.
        """
        wide = probs.astype(np.float64)
        likelihood = np.where(truth, wide, 1.0 if self is SINGLE else 1.0 - wide)
        each: NDArray[np.float64] = -np.log(np.maximum(likelihood, TINY)).sum(axis=1)
        return each

    def divergence(self, reference: Probs, probs: Probs) -> float:
        """Mean Kullback-Leibler divergence of probabilities from a reference's, in nats per image.

        Of several labels, the sum of each one's; probabilities count as 1e-12 at least.
        """
        true, given = (np.maximum(p.astype(np.float64), TINY) for p in (reference, probs))
        parts = true * np.log(true / given)
        if self is not SINGLE:
            true, given = (np.maximum(1.0 - p.astype(np.float64), TINY) for p in (reference, probs))
            parts = parts + true * np.log(true / given)
        return max(0.0, float(parts.sum(axis=1).mean()))


SINGLE = Task(
    name="single",
    scores=("top1", "macro_f1", "macro_recall", "worst_recall"),
    activation="softmax",
    threshold=0.0,
    agreement_key="agreement_top1",
)
MULTI = Task(
    name="multi",
    scores=("map", "macro_f1", "micro_f1", "exact_match"),
    activation="sigmoid",
    threshold=THRESHOLD,
    agreement_key="agreement_labels",
)


def task_of(name: TaskName) -> Task:
    """The task of a name."""
    return MULTI if name == "multi" else SINGLE
