"""What nobody should ship without having read it: loud lines below the table, and in the JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill.report.results import Caution, ResultRow

DISTILLED = ("student", "onnx")  # kinds of rows
FEW = 10  # images of a class in a split: one more error is ten points of its recall
Labels = NDArray[np.int64]


def cautions(
    rows: Sequence[ResultRow],
    main: str,
    answers: Mapping[str, Labels],
    labels: Labels,
    classes: Sequence[str],
) -> tuple[Caution, ...]:
    """What to say of results on a test split where images have one label.

    Args:
        rows: Controls among them.
        main: The score that models are compared by.
        answers: The likeliest class of each test image, `(n,)`, by the name of a row.
        labels: Of the test images, `(n,)`.
    """
    return (
        *_below_controls(rows, main),
        *_taught_nothing(rows, answers, labels, classes),
        *_one_sided(rows, answers, labels, classes),
        *_few_images(labels, classes),
    )


def _below_controls(rows: Sequence[ResultRow], main: str) -> Iterator[Caution]:
    for control in rows:
        if control.kind != "control" or not control.test:
            continue
        bar = control.test[main]
        below = [
            f"{row.name} {row.test[main]:.2f}"
            for row in rows
            if row.kind in DISTILLED and row.test and row.test[main] < bar
        ]
        if below:
            yield Caution(
                kind="below_control",
                what=f"{', '.join(below)} % {main}, {control.name} {bar:.2f}",
                fix="do not ship it: train longer (student.train.epochs), from pretrained "
                "weights, or look at the data with distill check",
            )


def _taught_nothing(
    rows: Sequence[ResultRow],
    answers: Mapping[str, Labels],
    labels: Labels,
    classes: Sequence[str],
) -> Iterator[Caution]:
    share = 100.0 * np.bincount(labels, minlength=len(classes)).max() / len(labels)
    for row in rows:
        if row.kind == "teacher" and row.name in answers:
            top1 = 100.0 * float((answers[row.name] == labels).mean())
            if top1 <= share:
                yield Caution(
                    kind="teacher_learned_nothing",
                    what=f"{row.name} is right on {top1:.2f} % of the test images; "
                    f"the commonest class alone is {share:.2f} % of them",
                    fix="give it pretrained weights, another teacher.train.lr (--find-lr) or more "
                    "epochs before it teaches",
                )


def _one_sided(
    rows: Sequence[ResultRow],
    answers: Mapping[str, Labels],
    labels: Labels,
    classes: Sequence[str],
) -> Iterator[Caution]:
    """Classes that students and files never answer, or never find: one line for all of them."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.kind in DISTILLED and row.name in answers:
            for finding in _missed(answers[row.name], labels, classes):
                names.setdefault(finding, []).append(row.name)
    for (kind, what, fix), of in names.items():
        yield Caution(kind=kind, what=f"{what} ({', '.join(of)})", fix=fix)


def _missed(
    given: Labels, labels: Labels, classes: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Kind, words and remedy of what is missing from a model's answers."""
    present, answered, found = (
        np.bincount(some, minlength=len(classes)) > 0
        for some in (labels, given, labels[given == labels])
    )
    if answered.sum() == 1 and present.sum() > 1:
        what = f"{classes[int(answered.argmax())]} is the answer to every test image"
        fix = "it learned nothing: more epochs, another student.train.lr (--find-lr)"
        yield "one_answer", what, fix
        return
    fix = "add images of them, or student.train.class_weights=balanced"
    for kind, missing, words in (
        ("never_answered", present & ~answered, "never answered"),
        ("never_found", present & answered & ~found, "answered, but never rightly"),
    ):
        if missing.any():
            listed = ", ".join(classes[int(index)] for index in np.flatnonzero(missing))
            yield kind, f"{words}: {listed}", fix


def _few_images(labels: Labels, classes: Sequence[str]) -> Iterator[Caution]:
    counts = np.bincount(labels, minlength=len(classes))
    few = [f"{name} {count}" for name, count in zip(classes, counts, strict=True) if count < FEW]
    if few:
        room = 98.0 / math.sqrt(len(labels))  # 1.96 standard errors where half are right
        yield Caution(
            kind="few_images",
            what=f"{len(labels)} test images ({', '.join(few)}): a score may be off by {room:.0f} "
            "points, and a class's recall tells next to nothing",
            fix="add images, or raise data.test_fraction",
        )
