"""When a probability is enough for an answer: thresholds tuned on validation, and their curves.

numpy only, but for one bound that is asked of scipy while tuning. A threshold is put midway between
two neighbouring scores, so that rounding in another runtime does not tip the images that it was
tuned on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import ExportConfig, TaskName
from distill.errors import UserError
from distill.scoring.metrics_multi import THRESHOLD

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
CONFIDENCE = 95.0  # percent, one-sided, that answers are as accurate as a threshold promises
ABOVE_ALL = np.nextafter(np.float32(1.0), np.float32(2.0))  # what no probability reaches


@dataclass(frozen=True)
class Curve:
    """What every threshold gives of one label: arrays `(cuts,)`, thresholds ascending.

    Attributes:
        precision, recall, f1, fpr: In percent; NaN where there is nothing to take a share of.
    """

    thresholds: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    fpr: Floats


@dataclass(frozen=True)
class Coverage:
    """What every confidence threshold gives where an image has one label: arrays `(cuts,)`.

    Attributes:
        thresholds: Ascending, from 0.
        answered: Images that are answered.
        coverage: Their share of all, in percent.
        accuracy: Share of right ones among them, in percent; NaN where nothing is answered.
        at_least: What that share is of images like these with `CONFIDENCE`: the lower bound of
            Clopper & Pearson, 1934, doi:10.1093/biomet/26.4.404, in percent.
    """

    thresholds: Floats
    answered: NDArray[np.int64]
    coverage: Floats
    accuracy: Floats
    at_least: Floats


@dataclass(frozen=True)
class Tuned:
    """Thresholds of a shipped file.

    Attributes:
        rule: `f1`, `fpr`, `accuracy` or `none`.
        thresholds: By class; empty where the likeliest class is always the answer.
        record: What they do on validation, for `export.json`.
    """

    rule: str
    thresholds: dict[str, float]
    record: dict[str, Any]

    def array(self) -> NDArray[np.float32] | None:
        """The thresholds `(num_classes,)`, None if there are none."""
        return np.asarray([*self.thresholds.values()], np.float32) if self.thresholds else None


def tune(
    probs: Floats, labels: NDArray[np.int64], names: tuple[str, ...], config: ExportConfig
) -> Tuned:
    """Thresholds by the rule that the options name.

    Args:
        probs: Of the validation split, `(n, num_classes)`.
        labels: `(n,)`, or `(n, num_classes)` of 0 and 1.

    Raises:
        UserError: No threshold makes the answers as accurate as is wanted.
    """
    rule = config.rule("multi" if labels.ndim == 2 else "single")
    if labels.ndim == 2:
        return _tune_labels(probs, labels, names, rule, config.max_fpr)
    if rule == "none":
        return Tuned(rule, {}, {"rule": rule})
    chosen = at_accuracy(probs, labels, config.min_accuracy)
    curve = coverage_curve(probs, labels)
    at = int(np.searchsorted(curve.thresholds, chosen))
    record = {
        "rule": rule,
        "min_accuracy": config.min_accuracy,
        "confidence": CONFIDENCE,
        "threshold": chosen,
        "answered": int(curve.answered[at]),
        "coverage": float(curve.coverage[at]),
        "accuracy": float(curve.accuracy[at]),
        "accuracy_at_least": float(curve.at_least[at]),
    }
    return Tuned(rule, dict.fromkeys(names, chosen), record)


def tune_f1(probs: Floats, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The threshold of each label with its best F1, the highest of equals, `(num_classes,)`.

    A label without positives has no F1 and keeps 0.5.
    """
    tuned = np.full(labels.shape[1], THRESHOLD)
    for label, (scores, truth) in enumerate(zip(probs.T, labels.T == 1, strict=True)):
        if truth.any():
            curve = threshold_curve(scores, truth)
            last_best = len(curve.f1) - 1 - int(np.argmax(curve.f1[::-1]))
            tuned[label] = curve.thresholds[last_best]
    return tuned


def at_false_positive_rate(
    probs: Floats, labels: NDArray[np.int64], max_fpr: float
) -> NDArray[np.float64]:
    """The lowest threshold of each label that at most this share of its negatives reaches.

    A label without negatives has no such rate and keeps 0.5.

    Args:
        max_fpr: A share in [0, 1]. There always is a threshold, if need be above every score.
    """
    tuned = np.full(labels.shape[1], THRESHOLD)
    for label, (scores, truth) in enumerate(zip(probs.T, labels.T == 1, strict=True)):
        if not truth.all():
            thresholds = cuts(scores)
            shares = _reaching(thresholds, scores[~truth]) / int((~truth).sum())
            tuned[label] = thresholds[np.argmax(shares <= max_fpr)]
    return tuned


def at_accuracy(probs: Floats, labels: NDArray[np.int64], min_accuracy: float) -> float:
    """The lowest confidence from which on answers are at least this accurate, and be it by chance.

    That the images which were answered are that accurate is not enough: of few, all may be right.
    The lower bound of what their number tells has to reach it.

    Args:
        labels: `(n,)`.
        min_accuracy: In percent.

    Raises:
        UserError: No threshold gets there; names the best that is reached, and its coverage.
    """
    curve = coverage_curve(probs, labels)
    if curve.at_least.max() < min_accuracy:
        best = int(np.argmax(curve.at_least))  # the one of the largest coverage
        what = (
            f"{min_accuracy:g} % accuracy is not shown on validation: {curve.accuracy[best]:.2f} % "
            f"of {curve.answered[best]:,} answers ({curve.coverage[best]:.2f} % of the images) are "
            f"right, which makes at least {curve.at_least[best]:.2f} % likely"
        )
        needed = images_needed(min_accuracy)
        hint = f"lower it, train a better student, or validate on more: {needed:,} right at least"
        raise UserError(what, "export.min_accuracy", hint)
    return float(curve.thresholds[np.argmax(curve.at_least >= min_accuracy)])


def check_accuracy_rule(config: ExportConfig, task: TaskName, images: int) -> None:
    """Checks that so many validation images can show `min_accuracy`, if all answers are right.

    Raises:
        UserError: They cannot, so that there could be no threshold whatever is trained.
    """
    if config.rule(task) == "accuracy" and images < (needed := images_needed(config.min_accuracy)):
        what = f"{config.min_accuracy:g} % takes {needed:,} validation images, here are {images:,}"
        raise UserError(what, "export.min_accuracy", "lower it, or set export.thresholds=none")


def images_needed(min_accuracy: float) -> int:
    """Answers that have to be right, none of them wrong, to show this accuracy in percent."""
    if min_accuracy <= 0:
        return 1
    if min_accuracy >= 100:
        raise UserError("nothing shows 100 %", "export.min_accuracy", "take less, such as 99")
    return math.ceil(math.log(1 - CONFIDENCE / 100) / math.log(min_accuracy / 100))


def lower_bound(right: NDArray[np.int64], answered: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lower bound of a share, in percent, of which `right` of `answered` were seen; 0 of nothing.

    One-sided, with `CONFIDENCE`: Clopper & Pearson, 1934, doi:10.1093/biomet/26.4.404.
    """
    from scipy.stats import beta

    successes = np.maximum(right, 1)
    bound = 100.0 * beta.ppf(1.0 - CONFIDENCE / 100.0, successes, answered - right + 1)
    result: NDArray[np.float64] = np.where(right > 0, bound, 0.0)
    return result


def threshold_curve(scores: Floats, truth: Flags) -> Curve:
    """Precision, recall, F1 and false-positive rate of one label, `(n,)`, by its threshold."""
    thresholds = cuts(scores)
    hits, false = _reaching(thresholds, scores[truth]), _reaching(thresholds, scores[~truth])
    positives, negatives = int(truth.sum()), int((~truth).sum())
    return Curve(
        thresholds=thresholds,
        precision=_percent(hits, hits + false),
        recall=_percent(hits, positives),
        f1=_percent(2 * hits, hits + false + positives),
        fpr=_percent(false, negatives),
    )


def coverage_curve(probs: Floats, labels: NDArray[np.int64]) -> Coverage:
    """Coverage and accuracy by the confidence threshold, from answering everything at 0."""
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    thresholds = cuts(confidence)
    thresholds[0] = 0.0
    total = _reaching(thresholds, confidence)
    right = _reaching(thresholds, confidence[correct])
    shares = _percent(total, len(labels)), _percent(right, total)
    return Coverage(thresholds, total, *shares, lower_bound(right, total))


def cuts(scores: Floats) -> NDArray[np.float32]:
    """One threshold for every way to part scores in [0, 1], ascending: from all above to none.

    Equal scores in float32, the precision of a shipped file, are never parted.
    """
    distinct = np.unique(scores.astype(np.float32))
    top = np.float32(1.0) if distinct[-1] < 1.0 else ABOVE_ALL
    lower, upper = np.append(np.float32(0.0), distinct), np.append(distinct, top)
    middle = ((lower.astype(np.float64) + upper) / 2).astype(np.float32)
    return np.where(middle > lower, middle, upper)


def _reaching(thresholds: Floats, scores: Floats) -> NDArray[np.int64]:
    """How many scores reach each threshold."""
    ranked = np.sort(scores.astype(np.float32))
    return (len(ranked) - np.searchsorted(ranked, thresholds)).astype(np.int64)


def _percent(part: NDArray[np.int64], whole: NDArray[np.int64] | int) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = 100.0 * part / whole
    return share


def _tune_labels(
    probs: Floats, labels: NDArray[np.int64], names: tuple[str, ...], rule: str, max_fpr: float
) -> Tuned:
    """Thresholds where labels are many, each with what it gives on validation."""
    if rule == "f1":
        chosen = tune_f1(probs, labels)
    elif rule == "fpr":
        chosen = at_false_positive_rate(probs, labels, max_fpr)
    else:
        chosen = np.full(len(names), THRESHOLD)
    needed = {"f1": 1, "fpr": 0}.get(rule)
    rows: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(names):
        truth = labels[:, label] == 1
        threshold = float(chosen[label])
        shares = _at(threshold, probs[:, label], truth)
        rows[name] = {"threshold": threshold, "positives": int(truth.sum()), **shares}
        if needed is not None and not (truth == needed).any():
            kind = "positives" if needed else "negatives"
            rows[name]["note"] = f"no {kind} in validation: {THRESHOLD} is kept"
    record = {"rule": rule, **({"max_fpr": max_fpr} if rule == "fpr" else {}), "labels": rows}
    return Tuned(rule, {name: row["threshold"] for name, row in rows.items()}, record)


def _at(threshold: float, scores: Floats, truth: Flags) -> dict[str, float]:
    """One label's shares at a threshold, in percent; a share of nothing is absent."""
    given = scores.astype(np.float32) >= np.float32(threshold)
    hits, positives = int((given & truth).sum()), int(truth.sum())
    shares = {
        "precision": (hits, int(given.sum())),
        "recall": (hits, positives),
        "f1": (2 * hits, int(given.sum()) + positives if positives else 0),
        "fpr": (int(given.sum()) - hits, len(truth) - positives),
    }
    return {name: 100.0 * part / whole for name, (part, whole) in shares.items() if whole}
