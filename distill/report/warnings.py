"""What nobody should ship without having read it: loud lines below the table, and in the JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill.report.results import Caution, ResultRow

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
    controls = [row for row in rows if row.kind == "control" and row.test]
    for row in rows:
        for control in controls:
            if row.kind in ("student", "onnx") and row.test and control.test:
                score, other = row.test[main], control.test[main]
                if score < other:
                    yield Caution(
                        kind="below_control",
                        what=f"{row.name} has {score:.2f} % {main}, {control.name} {other:.2f}",
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
    """Classes that a student or file never answers, or never finds."""
    present = np.bincount(labels, minlength=len(classes)) > 0
    for row in rows:
        if row.kind not in ("student", "onnx") or row.name not in answers:
            continue
        given = answers[row.name]
        answered = np.bincount(given, minlength=len(classes)) > 0
        found = np.bincount(labels[given == labels], minlength=len(classes)) > 0
        if answered.sum() == 1 and present.sum() > 1:
            name = classes[int(answered.argmax())]
            yield Caution(
                kind="one_answer",
                what=f"{row.name} answers {name} to every test image",
                fix="it learned nothing: more epochs, another student.train.lr (--find-lr)",
            )
            continue
        for kind, seen, verb in (
            ("never_answered", answered, "answers"),
            ("never_found", found | ~answered, "finds an image of"),
        ):
            never = [
                name
                for name, has, there in zip(classes, seen, present, strict=True)
                if there and not has
            ]
            if never:
                yield Caution(
                    kind=kind,
                    what=f"{row.name} never {verb} {', '.join(never)}",
                    fix="add images of it, or student.train.class_weights=balanced",
                )


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
