"""What is said of a result that nobody should ship, and that nothing is said of a good one."""

from collections.abc import Sequence

import numpy as np
import pytest

from distill.report.results import Caution, ResultRow
from distill.report.warnings import cautions
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of

CLASSES = ("cat", "dog", "eel")
LABELS = np.repeat([0, 1, 2], [20, 20, 20])


def row(name: str, kind: str, top1: float) -> ResultRow:
    return ResultRow(name=name, kind=kind, test={"top1": top1})


def said(answers: dict[str, np.ndarray], labels: np.ndarray = LABELS) -> list[tuple[str, str]]:
    """Of the answers of models, validation being like the 60 images."""
    kinds = {"t": "teacher", "s": "student", "s.onnx": "onnx"}
    rows = [
        row(name, kinds[name], 100.0 * float((given == labels).mean()))
        for name, given in answers.items()
    ]
    rows.append(row("random_forest", "control", 60.0))
    task = task_of("single")
    flags = {name: task.truth(given, 3) for name, given in answers.items()}
    truth = {"val": task.truth(LABELS, 3), "test": task.truth(labels, 3)}
    return shown(cautions(rows, task, flags, truth, CLASSES))


def shown(found: Sequence[Caution]) -> list[tuple[str, str]]:
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


def test_a_student_far_below_its_teacher_is_named_with_both_scores() -> None:
    """55.56 % beside a teacher of 77.78 went out with words about few images only."""
    assert said({"t": wrong(3), "s": wrong(8), "s.onnx": wrong(5)}) == [
        ("below_teacher", "s 86.67 % top1, the teacher t 95.00")
    ]
    assert said({"t": wrong(3), "s": wrong(6)}) == []
    assert said({"s": wrong(20)}) == []


@pytest.mark.parametrize(
    ("answers", "kinds"),
    [
        (np.zeros(60, int), ["below_control", "one_answer"]),
        (np.where(LABELS == 2, 1, LABELS), ["below_teacher", "never_answered"]),
        # It answers eel, but only to dogs.
        (
            np.where(LABELS == 2, 0, np.where(np.arange(60) == 25, 2, LABELS)),
            ["below_teacher", "never_found"],
        ),
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


def test_test_images_of_one_class_say_nothing_of_a_teacher() -> None:
    found = said({"t": np.zeros(60, int)}, np.zeros(60, int))
    assert "teacher_learned_nothing" not in [kind for kind, _ in found]


def test_few_images_say_what_a_score_can_be_worth() -> None:
    """1.96 standard errors of a half of 25 images are 19.6 points."""
    labels = np.repeat([0, 1, 2], [13, 10, 2])
    ((kind, what),) = said({"t": labels, "s": labels}, labels)
    assert kind == "few_images"
    assert "eel 2" in what
    assert "cat" not in what
    assert "off by 20 points" in what


def test_few_validation_images_say_what_choosing_by_them_is_worth() -> None:
    """A student was chosen on two images of a class without a word."""
    task = task_of("single")
    truth = {"test": task.truth(LABELS, 3), "val": task.truth(np.repeat([0, 1, 2], [14, 9, 2]), 3)}
    (found,) = cautions([], task, {}, truth, CLASSES)
    assert found.kind == "few_validation_images"
    assert "dog 9, eel 2" in found.what
    assert "off by 20 points" in found.what
    assert "data.val_fraction" in found.fix


# Of 40 images 20 have each label, 10 both, 10 none.
SEVERAL = np.stack([np.arange(40) % 2, np.arange(40) // 2 % 2, np.arange(40) < 20], axis=1)
AT = np.array([0.3, 0.5, 0.7])


def said_of_several(
    probs: dict[str, np.ndarray], test: np.ndarray = SEVERAL, val: np.ndarray = SEVERAL
) -> list[tuple[str, str]]:
    kinds = {"t": "teacher", "s": "student", "s.onnx": "onnx", "random_forest": "control"}
    task = task_of("multi")
    rows = [
        ResultRow(name=name, kind=kinds[name], test=score(found, test, CLASSES))
        for name, found in probs.items()
    ]
    answers = {"s.onnx": task.answers(probs["s.onnx"], AT)} if "s.onnx" in probs else {}
    truth = {"test": task.truth(test, 3), "val": task.truth(val, 3)}
    return shown(cautions(rows, task, answers, truth, CLASSES))


def guesses(right: int) -> np.ndarray:
    """Probabilities that are right of the first so many images, on both sides of thresholds."""
    flipped = np.where((np.arange(40) < right)[:, None], SEVERAL, 1 - SEVERAL)
    return np.where(flipped, AT + 0.1, AT - 0.1)


def test_of_good_labels_nothing_is_said() -> None:
    probs = {"t": guesses(40), "s": guesses(39), "s.onnx": guesses(39)}
    assert said_of_several({**probs, "random_forest": guesses(30)}) == []
    # A student has no thresholds: what its file gives at its own is what counts.
    assert said_of_several({**probs, "s": 0.1 * guesses(40)}) == []


def test_labels_that_are_never_given_or_never_rightly() -> None:
    """Only images of one label had warnings."""
    never, wrongly = guesses(40), guesses(40)
    never[:, 2] = AT[2] - 0.01 - 0.1 * (1 - SEVERAL[:, 2])
    wrongly[:, 1] = np.where(SEVERAL[:, 1], AT[1] - 0.1, AT[1] + 0.1)
    assert said_of_several({"s.onnx": never}) == [
        ("never_answered", "never answered at its threshold: eel (s.onnx)")
    ]
    assert said_of_several({"s.onnx": wrongly}) == [
        ("never_found", "answered at its threshold, but never rightly: dog (s.onnx)")
    ]
    same = np.tile(AT + np.array([0.1, -0.1, 0.1]), (40, 1)) + 0.05 * SEVERAL
    assert said_of_several({"s.onnx": same}) == [
        ("one_answer", "cat, eel is the answer to every test image (s.onnx)")
    ]
    ((_, what),) = said_of_several({"s.onnx": 0.1 * guesses(40)})
    assert what.startswith("no label is the answer")


def test_a_teacher_and_a_student_that_learned_no_label() -> None:
    """All scores alike, the average precision of a label is its share of the images: a half."""
    probs = {"t": np.full((40, 3), 0.4), "s.onnx": guesses(34), "random_forest": guesses(40)}
    below, taught = said_of_several(probs)
    assert below[0] == "below_control"
    assert "% map, random_forest 100.00" in below[1]
    assert taught[0] == "teacher_learned_nothing"
    assert "t has 50.00 % mAP on test; guesses have 50.00 %" in taught[1]


def test_few_images_of_a_label() -> None:
    few = SEVERAL.copy()
    few[10:, 0] = 0
    test, val = said_of_several({}, few, few)
    assert (test[0], val[0]) == ("few_images", "few_validation_images")
    for _, what in (test, val):
        assert "of some labels few (cat 5)" in what
        assert what.startswith("40 ")
