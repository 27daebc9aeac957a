"""Who teaches best, by a short proxy: each teacher is trained briefly, then teaches briefly.

The better student names the better teacher, which is not always the stronger one (WRN-40-2 of
75.6 % teaches a student to 77.1 %, 32x4 of 79.4 % to 76.6: Sun et al., 2024, arXiv:2403.01427).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from distill.config import Recipe
from distill.files import JsonModel, write_json
from distill.overrides import merge
from distill.pipeline.experiment import Experiment
from distill.pipeline.train import begin, train_students, train_teachers
from distill.planner.plan import open_draft
from distill.planner.preset import Amount
from distill.planner.request import Request
from distill.progress import Progress

TEACHER, STUDENT = Amount(steps=80, epochs=(1, 8)), Amount(steps=160, epochs=(2, 16))
TAUGHT = "by-"  # prefix of the students' names
VIEWS = 2  # that each teacher answers


class Teaching(JsonModel):
    """What a teacher is worth, in percent of the main score on the validation split.

    Attributes:
        student_val: Of the student that it taught.
        val: Of itself.
        seconds: That both trainings took.
    """

    teacher: str
    model: str
    student_val: float
    val: float
    seconds: float


def brief_recipe(
    request: Request, device: torch.device, progress: Progress
) -> tuple[Recipe, list[str]]:
    """A recipe that briefly trains every teacher whose weights can be had, and a student by each.

    Returns:
        The recipe, and which teachers are left out and why.

    Raises:
        UserError: The data cannot be used, or the weights of no teacher can be had.
    """
    draft = open_draft(request, device, progress)
    bounds = {"teacher": TEACHER, "student": STUDENT, "teachers": len(draft.table["teachers"])}
    draft = replace(draft, preset=draft.preset.model_copy(update=bounds))
    draft, left_out = draft.with_weights()
    student = merge({"cache": {"views": VIEWS}}, draft.table["students"][0])
    students = [
        {**student, "name": TAUGHT + run["name"], "teachers": [run["name"]]}
        for run in draft.table["teachers"]
    ]
    draft = replace(draft, table={**draft.table, "students": students})
    return draft.recipe(draft.sizes[0]), left_out


def compare_teachers(experiment: Experiment) -> list[Teaching]:
    """Trains the runs of a `brief_recipe`, writes `teachers.json`; the best teacher comes first."""
    begin(experiment)
    train_teachers(experiment)
    train_students(experiment)
    found = [teaching(experiment, config.name) for config in experiment.recipe.teachers]
    found.sort(key=lambda row: row.student_val, reverse=True)
    write_json(experiment.out / "teachers.json", [row.to_json() for row in found])
    return found


def teaching(experiment: Experiment, name: str) -> Teaching:
    """What came of a teacher."""
    teacher, student = experiment.finished(name), experiment.finished(TAUGHT + name)
    rows: list[dict[str, Any]] = [*teacher.rows, *student.rows]
    return Teaching(
        teacher=name,
        model=teacher.config["run"]["model"]["name"],
        student_val=student.best_score,
        val=teacher.best_score,
        seconds=round(sum(row["seconds"] for row in rows), 1),
    )
