"""Scores of probabilities against labels; numpy only, so that the shipped runtime can score too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.scoring.metrics_multi import score_multi

Probs = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


def confusion_matrix(predicted: Labels, labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Counts `(num_classes, num_classes)`, rows the true class, columns the predicted one."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def score(
    probs: Probs, labels: Labels, names: tuple[str, ...], thresholds: ArrayLike | None = None
) -> dict[str, Any]:
    """The scores of a table's row: percentages in [0, 100], losses in nats.

    Args:
        probs: `(n, num_classes)`.
        labels: `(n,)`; or `(n, num_classes)` of 0 and 1, scored as `score_multi` says.
        thresholds: `(num_classes,)`, what a label's probability must reach to be an answer; None
            for no threshold, or 0.5 throughout where labels are many.

    Returns:
        `n`, `top1`, `macro_f1`, `macro_recall`, `worst_recall`, `nll`, `ece`, `per_class_recall`
        by name; a class without images has no recall and takes no part in the macro averages.
        With thresholds also `answered`: its `coverage` is the share of images with an answer,
        its `accuracy`, absent where nothing was answered, the share of right ones among them.
        All but `answered` are of the likeliest class, answered or not.
    """
    if labels.ndim == 2:
        return score_multi(probs, labels, names, thresholds)
    chosen = probs.argmax(axis=1)
    matrix = confusion_matrix(chosen, labels, len(names))
    hits, actual, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    present = actual > 0
    f1, recall = 2.0 * hits / np.maximum(actual + predicted, 1), hits / np.maximum(actual, 1)
    picked = probs[np.arange(len(labels)), labels].astype(np.float64)
    scores = {
        "n": len(labels),
        "top1": 100.0 * float(hits.sum() / len(labels)),
        "macro_f1": 100.0 * float(f1[present].mean()),
        "macro_recall": 100.0 * float(recall[present].mean()),
        "worst_recall": 100.0 * float(recall[present].min()),
        "nll": float(-np.log(np.maximum(picked, 1e-12)).mean()),
        "ece": expected_calibration_error(probs, labels),
        "per_class_recall": {
            name: 100.0 * float(recall[i]) for i, name in enumerate(names) if present[i]
        },
    }
    if thresholds is not None:
        confident = probs.max(axis=1) >= np.asarray(thresholds)[chosen]
        scores["answered"] = answered(confident, chosen == labels)
    return scores


def answered(confident: NDArray[np.bool_], correct: NDArray[np.bool_]) -> dict[str, float]:
    """`coverage` and `accuracy` of the images that are answered, in percent, from flags `(n,)`."""
    count = int(confident.sum())
    shares = {"coverage": 100.0 * count / len(confident)}
    if count:
        shares["accuracy"] = 100.0 * int(correct[confident].sum()) / count
    return shares


def expected_calibration_error(probs: Probs, labels: Labels, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy in equal bins of confidence, in percent.

    Guo et al., 2017, arXiv:1706.04599, eq. 3.
    """
    confidence = probs.max(axis=1).astype(np.float64)
    correct = (probs.argmax(axis=1) == labels).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, confidence - correct, minlength=bins)
    return 100.0 * float(np.abs(gap).sum() / len(labels))


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities of logits `(n, num_classes)`, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    result: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return result


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities of logits of any shape, each on its own, in float64; no overflow."""
    small = np.exp(-np.abs(logits.astype(np.float64)))
    result: NDArray[np.float64] = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return result
