"""The verdicts of an experiment: does a teacher help, is what ships as good as its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.files import amend_manifest, atomic, read_manifest
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import pairs
from distill.report.results import ResultRow
from distill.runtime.shipped import preferred
from distill.scoring.comparison import Difference, Verdict, judge

CORRECT, PARTS, EXACT = "test_correct.npy", "test_map.npy", "student.fp32.onnx"


def verdicts(
    experiment: Experiment, parts: Mapping[str, NDArray[Any]], teacher: str | None
) -> tuple[Verdict, ...]:
    """What the answers on the test split decide; the first is the most asked for.

    Args:
        parts: Those of each image, as `Task.parts` has them, by the name of a row.
        teacher: The best one.
    """
    groups = experiment.data.groups_of("test")
    if len(set(groups)) < 2:
        return ()

    def between(first: list[str], second: list[str]) -> Difference:
        one, other = (np.stack([parts[n] for n in names]) for names in (first, second))
        return Difference(one, other, groups)

    taught = [
        (f"{name} over {runs[0][1]}", between([a for a, _ in runs], [b for _, b in runs]))
        for name, runs in pairs(experiment.recipe).items()
    ]
    files = [name for name in parts if name.endswith(".onnx")]
    shipped, found = preferred(files), list(judge(taught))
    for name in sorted(files, key=lambda name: name != shipped):
        references = (reference for reference in (teacher, EXACT) if reference in parts)
        for reference in references:
            if reference is not None and reference != name:
                found += judge([(f"{name} over {reference}", between([name], [reference]))])
    return tuple(found)


def keep(place: Path, answers: NDArray[Any]) -> None:
    """Keeps with a run, as a file of it, what is known of its answers on the test split."""
    listed = place.name in read_manifest(place.parent)
    if listed and place.is_file() and np.array_equal(np.load(place), answers):
        return
    with atomic(place) as temporary, temporary.open("wb") as file:
        np.save(file, answers)
    amend_manifest(place.parent, place)


def build_verdict(
    rows: Sequence[ResultRow],
    teacher: str | None,
    main: str,
    questions: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """What was asked first, all that was asked as `questions`, and the shipped file's figures.

    These are against the best teacher, and against every file timed beside it.

    Args:
        main: The score that figures are of, `top1` or `map`.
    """
    asked = {**questions[0], "questions": list(questions)} if questions else {}
    tests = {row.name: row.test for row in rows if row.test is not None}
    exported = {row.name: row for row in rows if row.kind == "onnx" and row.name in tests}
    name = preferred(exported)
    if name is None:
        return asked
    shipped = exported[name]
    verdict: dict[str, Any] = {**asked, "shipped": name, main: tests[name][main]}
    if teacher is not None:
        params = next(row.params for row in rows if row.name == teacher)
        verdict["teacher"] = teacher
        verdict[f"{main}_minus_teacher"] = verdict[main] - tests[teacher][main]
        if shipped.params and params:
            verdict["params_share"] = shipped.params / params
    if shipped.images_per_s is not None:
        verdict["times_as_fast_as"] = {
            row.name: shipped.images_per_s / row.images_per_s
            for row in rows
            if row.kind == "onnx" and row is not shipped and row.images_per_s is not None
        }
    return verdict
