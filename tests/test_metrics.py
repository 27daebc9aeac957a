"""Scores by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as their_confusion_matrix
from sklearn.metrics import f1_score, log_loss, recall_score

from distill.scoring.metrics import confusion_matrix, expected_calibration_error, score, softmax
from distill.scoring.tasks import task_of

# Five samples, three classes: predicted 0 0 1 2 1, of which the second and the last are wrong.
LABELS = np.array([0, 2, 1, 2, 0])
PROBS = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.5, 0.25, 0.25],
        [0.2, 0.7, 0.1],
        [0.1, 0.1, 0.8],
        [0.25, 0.5, 0.25],
    ]
)
NAMES = ("cat", "dog", "eel")


def random_case(seed: int, count: int = 400, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(0, 1.5, (count, classes)) + 1.5 * np.eye(classes)[labels]
    return softmax(logits), labels


def test_score_by_hand() -> None:
    scores = score(PROBS, LABELS, NAMES)
    assert scores["n"] == 5
    assert scores["top1"] == pytest.approx(60.0)
    assert scores["per_class_recall"] == pytest.approx({"cat": 50.0, "dog": 100.0, "eel": 50.0})
    # F1 = 2 hits / (actual + predicted): 2/(2+2), 2/(1+2), 2/(2+1); mean (1/2 + 2/3 + 2/3) / 3
    assert scores["macro_f1"] == pytest.approx(100 * (1 / 2 + 2 / 3 + 2 / 3) / 3)
    nll = -sum(math.log(p) for p in (0.8, 0.25, 0.7, 0.8, 0.25)) / 5
    assert scores["nll"] == pytest.approx(nll)
    # Label 0: once 0, once 1. Label 1: once 1. Label 2: once 0, once 2.
    matrix = confusion_matrix(PROBS.argmax(axis=1), LABELS, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    # Recalls 1/2, 1 and 1/2; in the second case the class that is never found is the worst.
    assert scores["macro_recall"] == pytest.approx(100 * (1 / 2 + 1 + 1 / 2) / 3)
    assert scores["worst_recall"] == pytest.approx(50.0)
    scores = score(PROBS, np.array([0, 0, 1, 1, 1]), NAMES)
    assert scores["macro_recall"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert scores["worst_recall"] == pytest.approx(100 * 2 / 3)


def test_with_thresholds_some_images_are_not_answered() -> None:
    # Confidences 0.8 0.5 0.7 0.8 0.5 in the classes 0 0 1 2 1. Without the second and the last,
    # which are wrong: 3 of 5 answered, all right. The other scores stay.
    plain, found = score(PROBS, LABELS, NAMES), score(PROBS, LABELS, NAMES, [0.6, 0.6, 0.6])
    assert found.pop("answered") == pytest.approx({"coverage": 60.0, "accuracy": 100.0})
    assert found == plain
    # Each class has its own: that of dog keeps only 0.7, that of eel nothing.
    assert score(PROBS, LABELS, NAMES, [0.5, 0.6, 0.9])["answered"] == pytest.approx(
        {"coverage": 60.0, "accuracy": 100 * 2 / 3}
    )
    assert score(PROBS, LABELS, NAMES, [1.0, 1.0, 1.0])["answered"] == {"coverage": 0.0}


def test_calibration_error_by_hand() -> None:
    # In five bins of width 0.2: confidences 0.8, 0.7 and 0.8 fall in (0.6, 0.8], all three right:
    # gap 2.3 - 3 = -0.7. The two of 0.5 fall in (0.4, 0.6], both wrong: gap 1.0. Their sum over
    # five samples: 1.7 / 5 = 34 %.
    assert expected_calibration_error(PROBS, LABELS, bins=5) == pytest.approx(34.0)
    # One bin for all: |3.3 - 3| / 5 = 6 %.
    assert expected_calibration_error(PROBS, LABELS, bins=1) == pytest.approx(6.0)
    # A bin includes its upper edge: 0.8 is wrong and 0.7 right, both in (0.6, 0.8]: |1.5 - 1| / 2;
    # apart it would be 55 %.
    probs = np.array([[0.8, 0.2], [0.7, 0.3]])
    assert expected_calibration_error(probs, np.array([1, 0]), bins=5) == pytest.approx(25.0)


def test_a_calibrated_and_a_boastful_model() -> None:
    # Confidence 0.75, right three times in four.
    probs, labels = np.tile([0.75, 0.25], (4, 1)), np.array([0, 0, 0, 1])
    assert expected_calibration_error(probs, labels) == pytest.approx(0.0)
    sure = np.tile([1.0, 0.0], (4, 1))
    assert expected_calibration_error(sure, labels) == pytest.approx(25.0)
    assert expected_calibration_error(sure, 1 - labels) == pytest.approx(75.0)


def test_a_class_without_images_takes_no_part_and_one_never_predicted_counts_as_zero() -> None:
    probs = np.array([[0.9, 0.1, 0.0], [0.2, 0.1, 0.7]])
    scores = score(probs, np.array([0, 0]), NAMES)
    assert scores["per_class_recall"] == {"cat": 50.0}
    assert scores["macro_f1"] == pytest.approx(100 * 2 / 3)  # 2 * 1 / (2 + 1)
    assert not any(math.isnan(scores[key]) for key in ("top1", "macro_f1", "nll", "ece"))
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    scores = score(probs, np.array([0, 0, 1]), ("cat", "dog"))
    assert scores["per_class_recall"] == {"cat": 100.0, "dog": 0.0}
    assert scores["macro_f1"] == pytest.approx(100 * (4 / 5 + 0) / 2)  # 2 * 2 / (2 + 3) and 0


def test_a_probability_of_zero_is_a_finite_loss() -> None:
    scores = score(np.array([[1.0, 0.0]]), np.array([1]), ("cat", "dog"))
    assert scores["nll"] == pytest.approx(-math.log(1e-12))


def test_a_score_is_plain_json_numbers() -> None:
    scores = score(PROBS.astype(np.float32), LABELS, NAMES)
    assert [type(scores[key]) for key in ("n", "top1", "macro_f1", "nll", "ece")] == [
        int,
        *[float] * 4,
    ]
    assert {type(value) for value in scores["per_class_recall"].values()} == {float}


@pytest.mark.parametrize("seed", range(2))
def test_parity_with_scikit_learn(seed: int) -> None:
    probs, labels = random_case(seed)
    predicted = probs.argmax(axis=1)
    names = tuple("abcdef")
    scores = score(probs, labels, names)
    assert np.array_equal(
        confusion_matrix(predicted, labels, 6), their_confusion_matrix(labels, predicted)
    )
    assert scores["top1"] == pytest.approx(100 * (predicted == labels).mean())
    assert scores["macro_f1"] == pytest.approx(100 * f1_score(labels, predicted, average="macro"))
    assert scores["nll"] == pytest.approx(log_loss(labels, probs))
    recalls = 100 * recall_score(labels, predicted, average=None)
    assert list(scores["per_class_recall"].values()) == pytest.approx(list(recalls))


@pytest.mark.parametrize("seed", range(2))
def test_calibration_error_bin_by_bin(seed: int) -> None:
    """Guo et al., eq. 3, with a loop over bins that are open on the left."""
    probs, labels = random_case(seed)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    total = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probs, labels) == pytest.approx(100 * total)


def test_agreement() -> None:
    other = PROBS[:, ::-1]  # top classes 2 2 1 0 1 against 0 0 1 2 1
    assert task_of("single").agreement(PROBS, other) == pytest.approx(40.0)
    assert task_of("single").agreement(PROBS, PROBS**3) == 100.0


def test_softmax() -> None:
    # exp(0) : exp(ln 3) = 1 : 3, whatever is added to both
    logits = np.array([[0.0, math.log(3)], [1000.0, 1000.0 + math.log(3)]])
    assert softmax(logits) == pytest.approx(np.array([[0.25, 0.75]] * 2))
    assert softmax(np.array([[1e4, -1e4]], dtype=np.float32)).tolist() == [[1.0, 0.0]]
    assert softmax(np.zeros((1, 4), dtype=np.float32)).dtype == np.float64
