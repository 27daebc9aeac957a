"""Scores where an image may have several labels or none; numpy only, as for one label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Probs = NDArray[np.floating[Any]]
Matrix = NDArray[np.int64]
THRESHOLD = 0.5  # of a label that has none of its own


def score_multi(
    probs: Probs, labels: Matrix, names: tuple[str, ...], thresholds: ArrayLike | None = None
) -> dict[str, Any]:
    """The scores of a table's row: percentages in [0, 100], losses in nats.

    Args:
        probs: `(n, num_classes)`, each on its own in [0, 1].
        labels: `(n, num_classes)` of 0 and 1.
        thresholds: `(num_classes,)`; a label is given where its probability reaches its threshold.
            None for 0.5 throughout.

    Returns:
        `n`, `map`, `macro_f1`, `micro_f1`, `exact_match` (images with all labels right), `hamming`
        (share of wrong cells), `nll` (per image, summed over its labels), `ece`, and by name
        `per_label_ap`, `per_class_recall` and `per_class_precision`. A label without positives has
        no average precision and no recall, and takes no part in `map` and `macro_f1`; one that is
        never given has no precision. Without any positive, `map`, `macro_f1` and `micro_f1` are
        absent.
    """
    truth, given = labels == 1, label_sets(probs, thresholds)
    hits, actual, predicted = (cells.sum(axis=0) for cells in (truth & given, truth, given))
    precisions = {
        name: average_precision(probs[:, i], truth[:, i])
        for i, name in enumerate(names)
        if actual[i]
    }
    means = {}
    if precisions:
        f1 = 2.0 * hits / np.maximum(actual + predicted, 1)
        means = {
            "map": float(np.mean(list(precisions.values()))),
            "macro_f1": 100.0 * float(f1[actual > 0].mean()),
            "micro_f1": 100.0 * float(2.0 * hits.sum() / (actual.sum() + predicted.sum())),
        }
    return {
        "n": len(labels),
        **means,
        "exact_match": 100.0 * float((truth == given).all(axis=1).mean()),
        "hamming": 100.0 * float((truth != given).mean()),
        "nll": negative_log_likelihood(probs, truth),
        "ece": calibration_error_of_cells(probs, truth),
        "per_label_ap": precisions,
        "per_class_recall": _shares(hits, actual, names),
        "per_class_precision": _shares(hits, predicted, names),
    }


def label_sets(probs: Probs, thresholds: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Which labels each image is given, `(n, num_classes)`; None is 0.5 throughout."""
    given: NDArray[np.bool_] = probs >= np.asarray(THRESHOLD if thresholds is None else thresholds)
    return given


def average_precision(scores: Probs, truth: NDArray[np.bool_]) -> float:
    """Area under the steps of one label's precision-recall curve, in percent.

    The sum over distinct scores of precision times the recall gained there: ties are one step,
    nothing is interpolated, as in scikit-learn's `average_precision_score`.

    Args:
        scores: `(n,)`.
        truth: `(n,)`, at least one of them true.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, positives = scores[order], np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # last of each tie
    gained = np.diff(positives[ends], prepend=0)
    return 100.0 * float((gained * positives[ends] / (ends + 1)).sum() / positives[-1])


def map_parts(probs: Probs, truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What each image adds to mean average precision: `(n,)`, whose mean is that, in [0, 1].

    Single parts are beyond that range. They vary as the score does with other images: an image's
    part is what the score would lose without it, n - 1 times, beside the mean (the jackknife's
    pseudo-values: Efron & Stein, 1981), so that means of parts can be compared as shares of right
    answers are. A label without positives takes no part; without any, parts are 0.

    Args:
        probs: `(n, num_classes)`.
        truth: Which labels the images have, `(n, num_classes)`.
    """
    columns = [i for i in range(truth.shape[1]) if truth[:, i].any()]
    each = [_precision_parts(probs[:, i], truth[:, i]) for i in columns]
    return np.asarray(np.mean(each, axis=0)) if each else np.zeros(len(truth))


def _precision_parts(scores: Probs, truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Parts of one label's average precision, as `map_parts`; ties are one step."""
    steps, step = np.unique(-scores, return_inverse=True)
    gained = np.bincount(step, truth, len(steps))  # positives of each step
    positives, images = np.cumsum(gained), np.cumsum(np.bincount(step, minlength=len(steps)))
    whole, total = (gained * positives / images).sum(), positives[-1]

    def without(one: int) -> NDArray[np.float64]:
        """Sums over steps if one image, positive or not, were taken out of each of them."""
        fewer = np.maximum(images - 1, 1)
        later = gained * (positives - one) / fewer
        own = np.maximum(gained - one, 0) * (positives - one) / fewer
        before = np.cumsum(gained * positives / images) - gained * positives / images
        after = later.sum() - np.cumsum(later)
        return np.asarray(before + own + after)

    left = np.where(truth, without(1)[step] / max(1.0, total - 1.0), without(0)[step] / total)
    parts = (len(truth) - 1.0) * (whole / total - left)
    return np.asarray(parts - parts.mean() + whole / total)


def negative_log_likelihood(probs: Probs, truth: NDArray[np.bool_]) -> float:
    """Mean over images of the summed binary cross-entropies of their labels, in nats."""
    wide = probs.astype(np.float64)
    likelihood = np.where(truth, wide, 1.0 - wide)
    return float(-np.log(np.maximum(likelihood, 1e-12)).sum(axis=1).mean())


def calibration_error_of_cells(probs: Probs, truth: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean gap between the probability of a label and how often it is there, in percent.

    Over all cells, in equal bins of probability: Guo et al., 2017, arXiv:1706.04599, eq. 3, for
    the positive class of each label.
    """
    flat, present = probs.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
    index = np.clip(np.ceil(flat * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, flat - present, minlength=bins)
    return 100.0 * float(np.abs(gap).sum() / flat.size)


def _shares(hits: Matrix, of: Matrix, names: tuple[str, ...]) -> dict[str, float]:
    """Percentages by name, of the labels that have any."""
    return {name: 100.0 * float(hits[i] / of[i]) for i, name in enumerate(names) if of[i]}
