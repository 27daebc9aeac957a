"""Scores of many labels per image, by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    hamming_loss,
    precision_score,
    recall_score,
)

from distill.scoring.metrics import score, sigmoid
from distill.scoring.metrics_multi import (
    average_precision,
    calibration_error_of_cells,
    map_parts,
)
from distill.scoring.tasks import task_of

# Four images, three labels; nobody has the third. At 0.5 the images are given a b, a c, b, none.
NAMES = ("a", "b", "c")
LABELS = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
PROBS = np.array([[0.9, 0.7, 0.1], [0.6, 0.3, 0.6], [0.4, 0.8, 0.2], [0.2, 0.1, 0.3]])


def random_case(seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """200 images, six labels of differing rarity, the last without positives; many ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((200, 6)) < [0.5, 0.3, 0.1, 0.05, 0.02, 0.0]).astype(np.int64)
    labels[0, :5] = 1
    logits = rng.normal(0, 1.5, labels.shape) + 2.0 * labels - 1.0
    return sigmoid(logits).round(decimals), labels


def test_scores_by_hand() -> None:
    found = score(PROBS, LABELS, NAMES)
    # a, from the top: + - + -, precision 1 and 2/3 at its positives; b: - + + -, 1/2 and 2/3.
    ap = {"a": 100 * (1 + 2 / 3) / 2, "b": 100 * (1 / 2 + 2 / 3) / 2}
    assert found["per_label_ap"] == pytest.approx(ap)
    assert found["map"] == pytest.approx(100 * (5 / 6 + 7 / 12) / 2)
    # a and b: one hit each, two given, two there: F1 = 2 * 1 / (2 + 2). c takes no part.
    assert found["macro_f1"] == pytest.approx(50.0)
    # All cells: two hits, four there, five given: 2 * 2 / 9.
    assert found["micro_f1"] == pytest.approx(100 * 4 / 9)
    # The first image and the one without labels are right; 3 + 2 cells of 12 are wrong.
    assert found["exact_match"] == pytest.approx(50.0)
    assert found["hamming"] == pytest.approx(100 * 5 / 12)
    assert found["per_class_recall"] == pytest.approx({"a": 50.0, "b": 50.0})
    assert found["per_class_precision"] == pytest.approx({"a": 50.0, "b": 50.0, "c": 0.0})
    likelihoods = (0.9 * 0.7 * 0.9, 0.4 * 0.3 * 0.4, 0.4 * 0.2 * 0.8, 0.8 * 0.9 * 0.7)
    assert found["nll"] == pytest.approx(-sum(map(math.log, likelihoods)) / 4)
    assert found["n"] == 4


def test_thresholds_move_the_answers_but_not_the_ranking() -> None:
    before, found = score(PROBS, LABELS, NAMES), score(PROBS, LABELS, NAMES, [0.35, 0.3, 0.7])
    # Given: a b, a b, a b, none; a score that equals its threshold (b of the second) reaches it.
    assert found["per_class_recall"] == pytest.approx({"a": 100.0, "b": 100.0})
    assert found["per_class_precision"] == pytest.approx({"a": 100 * 2 / 3, "b": 100 * 2 / 3})
    assert found["macro_f1"] == pytest.approx(100 * 2 * 2 / (2 + 3))
    assert found["exact_match"] == pytest.approx(50.0)
    assert found["hamming"] == pytest.approx(100 * 2 / 12)
    assert [found[key] for key in ("map", "nll", "ece")] == [
        before[key] for key in ("map", "nll", "ece")
    ]


def test_calibration_error_by_hand() -> None:
    # One bin: the probabilities sum to 5.2, of the 12 cells 4 are there.
    assert calibration_error_of_cells(PROBS, LABELS == 1, bins=1) == pytest.approx(10.0)
    # Two bins. Up to 0.5: .1 .3 .4 .2 .2 .1 .3 = 1.6, two there; above: .9 .7 .6 .6 .8 = 3.6, two.
    expected = 100 * (abs(1.6 - 2) + abs(3.6 - 2)) / 12
    assert calibration_error_of_cells(PROBS, LABELS == 1, bins=2) == pytest.approx(expected)


def test_ties_are_one_step() -> None:
    # Above: one image, a positive; then three of 0.5, one of them positive: 1 and 2/4.
    scores, truth = np.array([0.5, 0.5, 0.9, 0.5]), np.array([False, True, True, False])
    assert average_precision(scores, truth) == pytest.approx(100 * (1 + 2 / 4) / 2)
    assert average_precision(scores[::-1], truth[::-1]) == average_precision(scores, truth)
    # All alike: the share of positives.
    assert average_precision(np.full(4, 0.3), truth) == pytest.approx(50.0)


def test_without_any_positive_there_is_nothing_to_average() -> None:
    found = score(PROBS, np.zeros_like(LABELS), NAMES)
    assert not {"map", "macro_f1", "micro_f1"} & set(found)
    assert found["per_label_ap"] == found["per_class_recall"] == {}
    assert found["exact_match"] == pytest.approx(25.0)
    # Certainties that are wrong are a finite loss.
    found = score(np.array([[0.0, 1.0, 1.0]]), np.array([[1, 0, 1]]), NAMES)
    assert found["nll"] == pytest.approx(-2 * math.log(1e-12))
    assert found["ece"] == pytest.approx(100 * 2 / 3)


def test_a_score_is_plain_json_numbers() -> None:
    found = score(PROBS.astype(np.float32), LABELS, NAMES, np.full(3, 0.5, np.float32))
    by_name = {key for key, value in found.items() if isinstance(value, dict)}
    assert by_name == {"per_label_ap", "per_class_recall", "per_class_precision"}
    assert type(found.pop("n")) is int
    numbers = [value for key, value in found.items() if key not in by_name]
    numbers += [number for key in by_name for number in found[key].values()]
    assert {type(value) for value in numbers} == {float}


@pytest.mark.parametrize("decimals", [1, 12])  # many ties, none
def test_parity_with_scikit_learn(decimals: int) -> None:
    probs, labels = random_case(decimals, decimals)
    found = score(probs, labels, tuple("abcdef"))
    present = labels.any(axis=0)
    given = (probs >= 0.5).astype(np.int64)
    truth, answers = labels[:, present], given[:, present]
    theirs = 100 * average_precision_score(truth, probs[:, present], average=None)
    assert list(found["per_label_ap"].values()) == pytest.approx(list(theirs))
    assert found["map"] == pytest.approx(theirs.mean())
    options = {"average": "macro", "zero_division": 0}
    assert found["macro_f1"] == pytest.approx(100 * f1_score(truth, answers, **options))
    assert found["micro_f1"] == pytest.approx(100 * f1_score(labels, given, average="micro"))
    assert found["hamming"] == pytest.approx(100 * hamming_loss(labels, given))
    assert found["exact_match"] == pytest.approx(100 * accuracy_score(labels, given))
    recall = 100 * recall_score(truth, answers, average=None)
    assert list(found["per_class_recall"].values()) == pytest.approx(list(recall))
    predicted = given.any(axis=0)
    precision = precision_score(labels, given, average=None, zero_division=0)[predicted]
    assert list(found["per_class_precision"].values()) == pytest.approx(list(100 * precision))
    assert list(found["per_label_ap"]) == list("abcde")


@pytest.mark.parametrize("decimals", [6, 1])
def test_parts_of_a_mean_average_precision_are_the_jackknifes(decimals: int) -> None:
    """Held against leaving each image out, by scikit-learn."""
    probs, labels = random_case(3, decimals)
    truth, count = labels[:, :5] == 1, len(labels)
    parts = map_parts(probs, labels == 1)
    whole = average_precision_score(truth, probs[:, :5])
    left = [
        average_precision_score(np.delete(truth, i, 0), np.delete(probs[:, :5], i, 0))
        for i in range(count)
    ]
    expected = (count - 1) * (whole - np.array(left))
    assert parts.mean() == pytest.approx(whole)
    assert parts == pytest.approx(expected - expected.mean() + whole)


def test_the_only_positive_of_a_label_is_all_of_its_precision() -> None:
    parts = map_parts(np.array([[0.9], [0.8], [0.1]]), np.array([[False], [True], [False]]))
    # 1/2; without the first image 1, without the positive 0, without the last 1/2
    assert parts == pytest.approx(np.array([-1.0, 1.0, 0.0]) + 0.5)
    assert map_parts(np.zeros((2, 1)), np.zeros((2, 1), bool)).tolist() == [0.0, 0.0]


def test_two_models_agree_where_all_labels_do() -> None:
    other = PROBS.copy()
    other[0, 0] = 0.4  # takes a from the first image
    other[1] = [0.99, 0.01, 0.99]  # far off, but the same labels
    assert task_of("multi").agreement(PROBS, other) == pytest.approx(75.0)
    # With a lower threshold for a the first image has its label again.
    assert task_of("multi").agreement(PROBS, other, [0.4, 0.5, 0.5]) == pytest.approx(100.0)


def test_each_task_has_its_probabilities_and_main_score() -> None:
    logits = np.array([[0.0, math.log(3.0)]], dtype=np.float32)
    # e^0 : e^ln3 = 1 : 3, and 1 / (1 + 1), 3 / (1 + 3)
    assert task_of("single").probabilities(logits) == pytest.approx(np.array([[0.25, 0.75]]))
    assert task_of("multi").probabilities(logits) == pytest.approx(np.array([[0.5, 0.75]]))
    assert (task_of("single").main_score, task_of("multi").main_score) == ("top1", "map")


def test_the_sigmoid_is_finite_and_symmetric_everywhere() -> None:
    logits = np.array([-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(logits)
    assert found + found[::-1] == pytest.approx(np.ones(7))
    assert found[1:-1] == pytest.approx(1 / (1 + np.exp(-logits[1:-1].astype(float))), rel=1e-6)
    assert (found[0], found[-1]) == (0.0, 1.0)
