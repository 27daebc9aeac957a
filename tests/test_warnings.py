"""What is said of a result that nobody should ship, and that nothing is said of a good one."""

import numpy as np
import pytest

from distill.report.results import ResultRow
from distill.report.warnings import cautions

CLASSES = ("cat", "dog", "eel")
LABELS = np.repeat([0, 1, 2], [20, 20, 20])


def row(name: str, kind: str, top1: float) -> ResultRow:
    return ResultRow(name=name, kind=kind, test={"top1": top1})


def said(answers: dict[str, np.ndarray], labels: np.ndarray = LABELS) -> list[tuple[str, str]]:
    kinds = {"t": "teacher", "s": "student", "s.onnx": "onnx"}
    rows = [
        row(name, kinds[name], 100.0 * float((given == labels).mean()))
        for name, given in answers.items()
    ]
    rows.append(row("random_forest", "control", 60.0))
    found = cautions(rows, "top1", answers, labels, CLASSES)
    assert all(one.fix for one in found)
    return [(one.kind, one.what) for one in found]


def wrong(count: int) -> np.ndarray:
    """Answers of which so many are wrong, evenly over the classes."""
    answers = LABELS.copy()
    places = np.linspace(0, 59, count).astype(int)
    answers[places] = (answers[places] + 1) % 3
    return answers


def test_of_a_good_student_nothing_is_said() -> None:
    assert said({"t": wrong(3), "s": wrong(6), "s.onnx": wrong(6)}) == []


def test_a_student_below_the_forest_is_named_with_both_scores() -> None:
    """49 % beside a forest of 85 was shipped without a word."""
    ((kind, what),) = said({"t": wrong(3), "s": wrong(30)})
    assert kind == "below_control"
    assert "50.00" in what
    assert "60.00" in what


@pytest.mark.parametrize(
    ("answers", "kinds"),
    [
        (np.zeros(60, int), ["below_control", "one_answer"]),
        (np.where(LABELS == 2, 1, LABELS), ["never_answered"]),
        # It answers eel, but only to dogs.
        (np.where(LABELS == 2, 0, np.where(np.arange(60) == 25, 2, LABELS)), ["never_found"]),
    ],
)
def test_classes_that_a_student_has_no_eye_for(answers: np.ndarray, kinds: list[str]) -> None:
    found = said({"t": wrong(3), "s": answers})
    assert [kind for kind, _ in found] == kinds
    assert kinds[-1] == "one_answer" or "eel" in found[-1][1]


def test_a_student_and_its_file_share_a_line() -> None:
    zeros = np.zeros(60, int)
    below, one = said({"t": wrong(3), "s": zeros, "s.onnx": zeros})
    assert below[1].startswith("s 33.33, s.onnx 33.33 % top1")
    assert one[1] == "cat is the answer to every test image (s, s.onnx)"


def test_a_teacher_no_better_than_the_commonest_class_is_named() -> None:
    found = said({"t": np.ones(60, int), "s": wrong(3)})
    assert [kind for kind, _ in found] == ["teacher_learned_nothing"]
    assert "33.33" in found[0][1]


def test_few_images_say_what_a_score_can_be_worth() -> None:
    """1.96 standard errors of a half of 25 images are 19.6 points."""
    labels = np.repeat([0, 1, 2], [13, 10, 2])
    ((kind, what),) = said({"t": labels, "s": labels}, labels)
    assert kind == "few_images"
    assert "eel 2" in what
    assert "cat" not in what
    assert "off by 20 points" in what
