"""Scores of probabilities against labels; numpy only, so that the shipped runtime can score too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Probs = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


def confusion_matrix(predicted: Labels, labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Counts `(num_classes, num_classes)`, rows the true class, columns the predicted one."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def score(probs: Probs, labels: Labels, names: tuple[str, ...]) -> dict[str, Any]:
    """The scores of a table's row: percentages in [0, 100], losses in nats.

    Args:
        probs: `(n, num_classes)`.
        labels: `(n,)`.

    Returns:
        `n`, `top1`, `macro_f1`, `nll`, `ece`, `per_class_recall` by name; a class without images
        has no recall and takes no part in the macro average.
    """
    matrix = confusion_matrix(probs.argmax(axis=1), labels, len(names))
    hits, actual, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    present = actual > 0
    f1 = 2.0 * hits / np.maximum(actual + predicted, 1)
    picked = probs[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "n": len(labels),
        "top1": 100.0 * float(hits.sum() / len(labels)),
        "macro_f1": 100.0 * float(f1[present].mean()),
        "nll": float(-np.log(np.maximum(picked, 1e-12)).mean()),
        "ece": expected_calibration_error(probs, labels),
        "per_class_recall": {
            name: 100.0 * float(hits[i] / actual[i]) for i, name in enumerate(names) if present[i]
        },
    }


def expected_calibration_error(probs: Probs, labels: Labels, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy in equal bins of confidence, in percent.

    Guo et al., 2017, arXiv:1706.04599, eq. 3.
    """
    confidence = probs.max(axis=1).astype(np.float64)
    correct = (probs.argmax(axis=1) == labels).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, confidence - correct, minlength=bins)
    return 100.0 * float(np.abs(gap).sum() / len(labels))


def agreement(probs: Probs, other: Probs) -> float:
    """Share of samples on which two models' top class is the same, in percent."""
    return 100.0 * float((probs.argmax(axis=1) == other.argmax(axis=1)).mean())


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of logits `(n, num_classes)`, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    result: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return result
