"""What nobody should ship without having read it: loud lines below the table, and in the JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.report.results import Caution, ResultRow
from distill.scoring.distance import Quarter, least_loss
from distill.scoring.tasks import SINGLE, Task

DISTILLED = ("student", "onnx")  # kinds of rows
FAR = 5.0  # points below its teacher from which a student is not what was asked for
STEEP = 1.0  # points that images unlike the training images cost at least
FRAGILE = 15.0  # points that a moderate stress may cost
FEW = 10  # images of a class in a split: one more error is ten points of its recall
Flags = NDArray[np.bool_]


def cautions(
    rows: Sequence[ResultRow],
    task: Task,
    answers: Mapping[str, Flags],
    truth: Mapping[str, Flags],
    classes: Sequence[str],
) -> tuple[Caution, ...]:
    """What to say of results on a test split.

    Args:
        rows: Controls among them.
        answers: Which labels each test image is given, `(n, classes)`, by the name of a row; those
            that are left out are not judged by it.
        truth: Which labels the images of `val` and `test` have.
    """
    scored = [row for row in rows if row.test and task.main_score in row.test]
    return (
        *_below_controls(scored, task.main_score),
        *_below_teachers(scored, task.main_score),
        *_taught_nothing(scored, task, truth["test"]),
        *_one_sided(scored, task, answers, truth["test"], classes),
        *_few_images(task, truth["test"], classes),
        *_few_validation_images(task, truth["val"], classes),
    )


def one_group(groups: Collection[str]) -> Iterator[Caution]:
    """What to say where all test images are one group, as of one site: no verdict is given then."""
    if len(set(groups)) == 1:
        yield Caution(
            kind="one_group",
            what="all test images are one group: on one question nothing can be compared",
            fix="give the test split images of several groups, or have it made (data.split)",
        )


def fragile(robustness: Mapping[str, Any] | None, main: str) -> Iterator[Caution]:
    """What to say of a file that pictures as cameras and messengers leave them are too much for."""
    if robustness is None:
        return
    clean = robustness[main]
    lost = {f"{r['name']} ({r['strength']})": clean - r[main] for r in robustness["rows"]}
    worst = {name: points for name, points in lost.items() if points > FRAGILE}
    if worst:
        listed = ", ".join(f"{name} {-points:.0f}" for name, points in worst.items())
        yield Caution(
            kind="fragile",
            what=f"{robustness['file']} has {clean:.2f} % {main}; points after {listed}",
            fix="train on such views ([views], docs/recipes.md), or keep such pictures away",
        )


def far_from_training(distance: Mapping[str, Any] | None, task: Task) -> Iterator[Caution]:
    """What to say of a file that is the worse, the less an image is like one it was trained on."""
    if distance is None:
        return
    of = "" if task is SINGLE else "of the labels "
    near, *_, far = (Quarter(**quarter) for quarter in distance["quarters"])
    if least_loss(near, far) > STEEP:
        yield Caution(
            kind="far_from_training",
            what=f"{distance['file']} is right on {near.accuracy:.1f} % {of}of the quarter of test "
            f"images that are most like training images, and on {far.accuracy:.1f} % "
            f"({far.low:.1f} to {far.high:.1f}) of those least like them: pictures from elsewhere "
            "are less like them still",
            fix="score some before you rely on it (--also DIR), and add such to the data",
        )


def worse_elsewhere(
    rows: Sequence[ResultRow],
    elsewhere: Sequence[Mapping[str, Any]],
    shipped: str | None,
    main: str,
) -> Iterator[Caution]:
    """What to say of a file that is far worse on labelled pictures from elsewhere."""
    own = next((row.test[main] for row in rows if row.name == shipped and row.test), None)
    for place in elsewhere:
        there = next((r["test"].get(main) for r in place["rows"] if r["name"] == shipped), None)
        if own is not None and there is not None and there < own - FAR:
            yield Caution(
                kind="worse_elsewhere",
                what=f"{shipped} has {there:.2f} % {main} on the {place['n']:,} images of "
                f"{place['location']}, {own:.2f} on the test split",
                fix="add images like those to the data, or keep to pictures like the training's",
            )


def _below_controls(rows: Sequence[ResultRow], main: str) -> Iterator[Caution]:
    scores = {row.name: row.test[main] for row in rows if row.test}
    for control in rows:
        bar = scores[control.name]
        below = [
            f"{row.name} {scores[row.name]:.2f}"
            for row in rows
            if row.kind in DISTILLED and scores[row.name] < bar
        ]
        if control.kind == "control" and control.params is None and below:
            yield Caution(
                kind="below_control",
                what=f"{', '.join(below)} % {main}, {control.name} {bar:.2f}",
                fix="do not ship it: train longer (student.train.epochs), from pretrained "
                "weights, or look at the data with distill check",
            )


def _below_teachers(rows: Sequence[ResultRow], main: str) -> Iterator[Caution]:
    """Students and files far below the best teacher, unless a forest is already above them."""
    scores = {row.name: row.test[main] for row in rows if row.test}
    teachers = [row.name for row in rows if row.kind == "teacher"]
    forests = (row for row in rows if row.kind == "control" and row.params is None)
    floor = max((scores[row.name] for row in forests), default=0.0)
    if not teachers:
        return
    best = max(teachers, key=scores.__getitem__)
    below = [
        f"{row.name} {scores[row.name]:.2f}"
        for row in rows
        if row.kind in DISTILLED and floor <= scores[row.name] < scores[best] - FAR
    ]
    if below:
        yield Caution(
            kind="below_teacher",
            what=f"{', '.join(below)} % {main}, the teacher {best} {scores[best]:.2f}",
            fix="train longer (student.train.epochs), choose a larger student, or add images",
        )


def _taught_nothing(rows: Sequence[ResultRow], task: Task, truth: Flags) -> Iterator[Caution]:
    """Teachers that are no better than who never looks at an image."""
    shares = 100.0 * truth.mean(axis=0)
    for row in rows:
        if row.kind != "teacher" or not row.test:
            continue
        found = row.test[task.main_score]
        if task is SINGLE:
            blind = float(shares.max())
            what = f"{row.name} is right on {found:.2f} % of the test images; "
            what += f"the commonest class alone is {blind:.2f} % of them"
        else:
            blind = float(shares[shares > 0].mean())
            what = f"{row.name} has {found:.2f} % mAP on test; "
            what += f"guesses have {blind:.2f} %, the mean share of images with a label"
        if found <= blind < 100.0:  # a split of one class tells nothing
            fix = "give it pretrained weights, another teacher.train.lr (--find-lr) or more "
            fix += "epochs before it teaches"
            yield Caution(kind="teacher_learned_nothing", what=what, fix=fix)


def _one_sided(
    rows: Sequence[ResultRow],
    task: Task,
    answers: Mapping[str, Flags],
    truth: Flags,
    classes: Sequence[str],
) -> Iterator[Caution]:
    """Classes that students and files never answer, or never find: one line for all of them."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.kind in DISTILLED and row.name in answers:
            for finding in _missed(answers[row.name], task, truth, classes):
                names.setdefault(finding, []).append(row.name)
    for (kind, what, fix), of in names.items():
        yield Caution(kind=kind, what=f"{what} ({', '.join(of)})", fix=fix)


def _missed(
    given: Flags, task: Task, truth: Flags, classes: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Kind, words and remedy of what is missing from a model's answers."""
    if (given == given[0]).all() and not (truth == truth[0]).all():
        what = f"{_listed(given[0], classes) or 'no label'} is the answer to every test image"
        fix = "it learned nothing: more epochs, another student.train.lr (--find-lr)"
        yield "one_answer", what, fix
        return
    present, answered, found = (some.sum(axis=0) > 0 for some in (truth, given, given & truth))
    fix = (
        "do not ship it where these matter: add images of them, or "
        "student.train.class_weights=balanced"
    )
    at = "" if task is SINGLE else " at its threshold"
    for kind, missing, words in (
        ("never_answered", present & ~answered, f"never answered{at}"),
        ("never_found", present & answered & ~found, f"answered{at}, but never rightly"),
    ):
        if missing.any():
            yield kind, f"{words}: {_listed(missing, classes)}", fix


def _listed(flags: Flags, classes: Sequence[str]) -> str:
    return ", ".join(classes[int(index)] for index in np.flatnonzero(flags))


def _few_images(task: Task, truth: Flags, classes: Sequence[str]) -> Iterator[Caution]:
    if few := _few(truth, classes):
        what = f"{len(truth)} test images ({few}): a score may be off by {_room(truth):.0f} "
        what += "points, and a class's recall tells next to nothing"
        if task is not SINGLE:
            what = f"{len(truth)} test images, of some labels few ({few}): their AP and recall "
            what += "tell next to nothing, and the mAP counts them like any other"
        fix = "add images, or raise data.test_fraction"
        yield Caution(kind="few_images", what=what, fix=fix)


def _few_validation_images(task: Task, truth: Flags, classes: Sequence[str]) -> Iterator[Caution]:
    if few := _few(truth, classes):
        what = f"{len(truth)} validation images ({few}): the scores that epochs, teachers and "
        what += f"int8 are chosen by may be off by {_room(truth):.0f} points"
        if task is not SINGLE:
            what = f"{len(truth)} validation images, of some labels few ({few}): their "
            what += "thresholds are next to guessed, and epochs are chosen by them too"
        fix = "add images, or raise data.val_fraction"
        yield Caution(kind="few_validation_images", what=what, fix=fix)


def _few(truth: Flags, classes: Sequence[str]) -> str:
    """The classes of few images, with their numbers."""
    pairs = zip(classes, truth.sum(axis=0), strict=True)
    return ", ".join(f"{name} {count}" for name, count in pairs if count < FEW)


def _room(truth: Flags) -> float:
    """Points that a score may be off: 1.96 standard errors where half are right."""
    return 98.0 / math.sqrt(len(truth))
