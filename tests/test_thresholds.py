"""Thresholds by hand, against trying them all, and the properties that make them worth having."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from pydantic import ValidationError

from distill.config import DataConfig, ExportConfig, Recipe
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.runtime.session import _Metadata
from distill.scoring.metrics import answered, sigmoid, softmax
from distill.scoring.thresholds import (
    ABOVE_ALL,
    at_accuracy,
    at_false_positive_rate,
    check_accuracy_rule,
    coverage_curve,
    cuts,
    images_needed,
    lower_bound,
    threshold_curve,
    tune,
    tune_f1,
)

SEEDS = range(6)


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def random_labels(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Scores of four labels with ties, some of exactly 0 and 1."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 4)) < [0.5, 0.3, 0.1, 0.9]).astype(np.int64)
    labels[0], labels[1] = 1, 0
    scores = sigmoid(rng.normal(0, 2, labels.shape) + 2 * labels - 1).round(2)
    return scores, labels


def random_classes(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return softmax(rng.normal(0, 1.2, (count, 3)) + 1.5 * np.eye(3)[labels]).round(2), labels


def every_threshold(scores: np.ndarray) -> np.ndarray:
    """Fine enough to part any two of the scores, which have two decimals."""
    return np.arange(0.0, 1.01, 0.005).astype(np.float32)


def f1_of(scores: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    given = scores.astype(np.float32) >= np.float32(threshold)
    return 2 * (given & truth).sum() / (given.sum() + truth.sum())


def fpr_of(scores: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    return float((scores[~truth].astype(np.float32) >= np.float32(threshold)).mean())


def test_a_cut_lies_midway_between_two_scores() -> None:
    # Distinct: 0.2, 0.6, 0.8; below the lowest half-way to 0, above the highest half-way to 1.
    assert cuts(np.array([0.6, 0.2, 0.8, 0.6])) == pytest.approx([0.1, 0.4, 0.7, 0.9])
    # A score of 0 is reached by the threshold 0; one of 1 only a larger one leaves out.
    assert cuts(np.array([0.0, 1.0])) == pytest.approx([0.0, 0.5, float(ABOVE_ALL)])
    assert ABOVE_ALL > 1.0


def test_a_cut_parts_scores_that_are_neighbours_in_float32() -> None:
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1.0))
    between = cuts(np.array([low, high]))[1]
    assert low < between <= high


def test_the_curve_of_a_label_by_hand() -> None:
    # From the top: + - + -; cuts below all, above 0.1, 0.4, 0.6 and 0.9.
    scores, truth = np.array([0.9, 0.6, 0.4, 0.1]), np.array([True, False, True, False])
    curve = threshold_curve(scores, truth)
    assert curve.thresholds == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95])
    assert curve.recall == pytest.approx([100, 100, 50, 50, 0])
    assert curve.fpr == pytest.approx([100, 50, 50, 0, 0])
    assert curve.precision[:4] == pytest.approx([100 * 2 / 4, 100 * 2 / 3, 50, 100])
    assert np.isnan(curve.precision[4])
    # 2 hits / (given + there): 4 / 6, 4 / 5, 2 / 4, 2 / 3, 0 / 2
    assert curve.f1 == pytest.approx([100 * 4 / 6, 80, 50, 100 * 2 / 3, 0])
    assert tune_f1(scores[:, None], truth[:, None].astype(int)) == pytest.approx([0.25])


def test_of_equal_f1_the_highest_threshold() -> None:
    # - + -: given all 2 * 1 / (3 + 1) = 1/2; without the lowest 2/3. + - -, from the top: 1.
    scores, labels = column(0.8, 0.5, 0.2), column(1, 0, 0).astype(int)
    assert tune_f1(scores, labels) == pytest.approx([0.65])
    # + - + ... with F1 2/3 both for the first alone (2 / (1 + 2)) and for the first four (4 / 6).
    scores, labels = column(0.9, 0.8, 0.7, 0.6), column(1, 0, 0, 1).astype(int)
    assert tune_f1(scores, labels) == pytest.approx([0.85])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_threshold_has_a_better_f1(seed: int) -> None:
    scores, labels = random_labels(seed)
    for label, threshold in enumerate(tune_f1(scores, labels)):
        p, truth = scores[:, label], labels[:, label] == 1
        best = max(f1_of(p, truth, t) for t in every_threshold(p))
        assert f1_of(p, truth, threshold) == pytest.approx(best)


@pytest.mark.parametrize("max_fpr", [0.0, 0.02, 0.05, 0.29, 1 / 3, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_false_positive_rate_is_held_by_the_lowest_threshold(seed: int, max_fpr: float) -> None:
    scores, labels = random_labels(seed)
    for label, threshold in enumerate(at_false_positive_rate(scores, labels, max_fpr)):
        p, truth = scores[:, label], labels[:, label] == 1
        assert fpr_of(p, truth, threshold) <= max_fpr
        held = [t for t in every_threshold(p) if fpr_of(p, truth, t) <= max_fpr]
        if held:
            # What the lowest possible threshold gives a label, this one does too.
            p32 = p.astype(np.float32)
            assert np.array_equal(p32 >= np.float32(threshold), p32 >= min(held))


def test_a_rate_that_is_exactly_allowed_is_taken() -> None:
    # 29 of 100 negatives are allowed at 0.29, although 0.29 * 100 is 28.999999999999996.
    scores, labels = (np.arange(100)[:, None] / 100), np.zeros((100, 1), dtype=int)
    (threshold,) = at_false_positive_rate(scores, labels, 0.29)
    assert (scores >= threshold).sum() == 29


def test_if_need_be_a_threshold_is_above_every_score() -> None:
    # Negatives of 1.0 and positives below: no threshold within [0, 1] keeps them out.
    scores, labels = column(1.0, 0.9), column(0, 1).astype(int)
    (threshold,) = at_false_positive_rate(scores, labels, 0.0)
    assert threshold > 1.0
    kept = json.loads(json.dumps(float(threshold)))
    assert not (scores.astype(np.float32) >= np.float32(kept)).any()
    spec = InputSpec(height=8, width=8).model_dump()
    record = {"names": ["a"], "task": "multi", "input_spec": spec, "thresholds": {"a": kept}}
    assert _Metadata.model_validate(record).thresholds == {"a": kept}  # a file may have it


@pytest.mark.parametrize(("images", "enough"), [(298, False), (299, True)])
def test_too_few_validation_images_for_an_accuracy_are_told_before_training(
    images: int, enough: bool
) -> None:
    config = ExportConfig(thresholds="accuracy", min_accuracy=99.0)
    check_accuracy_rule(ExportConfig(), "single", images)
    with nullcontext() if enough else pytest.raises(UserError, match="299 validation images"):
        check_accuracy_rule(config, "single", images)


def test_accuracy_by_hand() -> None:
    # Confidence 0.9 right, 0.8 right, 0.7 wrong, 0.6 right, 0.4 wrong.
    confidence, correct = [0.9, 0.8, 0.7, 0.6, 0.4], [True, True, False, True, False]
    probs = np.array([[c, 1 - c - 0.01, 0.01] if c > 0.5 else [c, 0.3, 0.3] for c in confidence])
    labels = np.array([0 if right else 2 for right in correct])
    curve = coverage_curve(probs, labels)
    assert curve.thresholds == pytest.approx([0.0, 0.5, 0.65, 0.75, 0.85, 0.95])
    assert curve.coverage == pytest.approx([100, 80, 60, 40, 20, 0])
    assert curve.accuracy[:5] == pytest.approx([60, 75, 200 / 3, 100, 100])
    assert np.isnan(curve.accuracy[5])
    # Two right of two are at least sqrt(0.05) = 22.36 % with 95 % confidence, one of one 5 %.
    assert curve.at_least[3:] == pytest.approx([100 * 0.05**0.5, 5.0, 0.0])
    # 3 of 5: p where at least 3 of 5 are right in 5 % of all cases, 18.93 %; 3 of 4: 24.86 %.
    assert curve.at_least[:2] == pytest.approx([18.926, 24.860], abs=1e-3)
    for wanted, threshold in ((18.0, 0.0), (24.0, 0.5), (24.9, None)):
        if threshold is None:
            with pytest.raises(UserError, match="is not shown"):
                at_accuracy(probs, labels, wanted)
        else:
            assert at_accuracy(probs, labels, wanted) == pytest.approx(threshold)


@pytest.mark.parametrize(("count", "shown"), [(298, False), (299, True)])
def test_few_images_do_not_show_much(count: int, shown: bool) -> None:
    """One answer, and that right, was "at least 99 % right": the first cut that reached it.

    0.99 ** 299 = 0.0495, so that 299 right answers are unlikely with less than 99 %.
    """
    probs = np.column_stack([np.linspace(0.6, 0.9, count), np.linspace(0.4, 0.1, count)])
    labels = np.zeros(count, dtype=np.int64)
    assert images_needed(99.0) == 299
    if shown:
        assert at_accuracy(probs, labels, 99.0) == 0.0
    else:
        with pytest.raises(UserError, match="299 right at least"):
            at_accuracy(probs, labels, 99.0)


def test_the_bound_is_that_of_exact_binomials() -> None:
    from scipy.stats import binomtest

    right, answers = np.array([0, 1, 7, 50, 99, 100]), np.array([3, 1, 9, 60, 100, 100])
    exact = [
        100 * binomtest(int(k), int(n), alternative="greater").proportion_ci(0.95).low
        for k, n in zip(right, answers, strict=True)
    ]
    assert lower_bound(right, answers) == pytest.approx(exact)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lowest_confidence_that_is_accurate_enough(seed: int) -> None:
    probs, labels = random_classes(seed)
    confidence, correct = probs.max(axis=1).astype(np.float32), probs.argmax(axis=1) == labels
    reached = [
        (t, answered(confidence >= t, correct))
        for t in every_threshold(confidence)
        if (confidence >= t).any()
    ]
    counts = [int((confidence >= t).sum()) for t, _ in reached]
    right = [int((correct & (confidence >= t)).sum()) for t, _ in reached]
    bounds = lower_bound(np.array(right), np.array(counts))
    before = 0.0
    for wanted in np.linspace(20.0, bounds.max(), 12):
        threshold = at_accuracy(probs, labels, float(wanted))
        assert threshold >= before  # wanting more never answers more
        before = threshold
        lowest = min(t for (t, _), bound in zip(reached, bounds, strict=True) if bound >= wanted)
        chosen = confidence >= np.float32(threshold)
        assert np.array_equal(chosen, confidence >= lowest)
        assert answered(chosen, correct)["accuracy"] >= wanted


def test_an_accuracy_that_is_not_shown_names_the_best_there_is() -> None:
    # The two most confident, both of 0.9, are right and wrong and cannot be parted: 2.53 % at
    # least; all four, of which three are right, 24.86 %.
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.7, 0.3], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])
    with pytest.raises(UserError, match=r"75\.00 % of 4 answers \(100\.00 % .* 24\.86 %") as caught:
        at_accuracy(probs, labels, 90.0)
    assert caught.value.where == "export.min_accuracy"
    assert at_accuracy(probs, labels, 24.0) == 0.0


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_one_image_is_enough(p: float) -> None:
    there, gone = np.array([[1]]), np.array([[0]])
    assert p >= np.float32(tune_f1(column(p), there)[0])
    assert p < at_false_positive_rate(column(p), gone, 0.5)[0]
    probs = np.array([[1.0, 0.0]])
    assert at_accuracy(probs, np.array([0]), 5.0) == 0.0
    with pytest.raises(UserError, match=r"0\.00 % of 1 answers"):
        at_accuracy(probs, np.array([1]), 1.0)


def test_a_label_that_validation_says_nothing_of_keeps_a_half() -> None:
    probs, labels = np.array([[0.9, 0.9], [0.8, 0.2]]), np.array([[0, 1], [0, 1]])
    f1 = tune(probs, labels, ("never", "always"), ExportConfig(thresholds="f1"))
    assert f1.thresholds["never"] == 0.5
    never, always = (f1.record["labels"][name] for name in ("never", "always"))
    assert "no positives" in never["note"]
    assert never == {"threshold": 0.5, "positives": 0, "note": never["note"]} | {
        "precision": 0.0,
        "fpr": 100.0,
    }
    assert "note" not in always
    assert always["f1"] == 100.0
    fpr = tune(probs, labels, ("never", "always"), ExportConfig(thresholds="fpr", max_fpr=0.5))
    # Half of the two negatives of `never` may be given it: half-way between 0.8 and 0.9.
    assert fpr.thresholds == pytest.approx({"never": 0.85, "always": 0.5})
    assert "no negatives" in fpr.record["labels"]["always"]["note"]
    assert fpr.record["max_fpr"] == 0.5


def test_rules_of_the_tasks() -> None:
    scores, labels = random_labels(0)
    names = tuple("abcd")
    assert tune(scores, labels, names, ExportConfig()).rule == "f1"
    plain = tune(scores, labels, names, ExportConfig(thresholds="none"))
    assert plain.thresholds == dict.fromkeys(names, 0.5)
    probs, classes = random_classes(0)
    assert tune(probs, classes, tuple("abc"), ExportConfig()).thresholds == {}
    assert tune(probs, classes, tuple("abc"), ExportConfig()).array() is None
    wanted = ExportConfig(thresholds="accuracy", min_accuracy=55.0)
    tuned = tune(probs, classes, tuple("abc"), wanted)
    assert set(tuned.thresholds) == {"a", "b", "c"}
    assert len(set(tuned.thresholds.values())) == 1
    chosen = probs.max(axis=1).astype(np.float32) >= np.float32(tuned.record["threshold"])
    found = answered(chosen, probs.argmax(axis=1) == classes)
    assert found["accuracy"] >= 55.0
    assert {key: tuned.record[key] for key in found} == pytest.approx(found)


@pytest.mark.parametrize(
    ("task", "rule"), [("single", "f1"), ("single", "fpr"), ("multi", "accuracy")]
)
def test_a_rule_of_the_other_task_is_refused_before_any_training(task: str, rule: str) -> None:
    with pytest.raises(ValidationError, match=r"export\.thresholds"):
        Recipe(data=DataConfig(task=task), export=ExportConfig(thresholds=rule))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_recorded_is_what_the_file_will_do(seed: int) -> None:
    """Through JSON and back to float32, each threshold parts the images as it did when tuned."""
    scores, labels = random_labels(seed)
    tuned = tune(scores, labels, tuple("abcd"), ExportConfig())
    read = np.array([*json.loads(json.dumps(tuned.thresholds)).values()], dtype=np.float32)
    given = scores.astype(np.float32) >= read
    for label, row in enumerate(tuned.record["labels"].values()):
        truth = labels[:, label] == 1
        hits, count = (given[:, label] & truth).sum(), given[:, label].sum()
        assert row["f1"] == pytest.approx(100 * 2 * hits / (count + truth.sum()))
        assert row["recall"] == pytest.approx(100 * hits / truth.sum())
