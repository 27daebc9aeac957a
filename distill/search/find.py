"""`distill search`: the best student that a limit on latency or size leaves room for.

Shapes of the compact student are timed on this machine with random weights. Of those within the
limits that no other one dominates, the largest are trained briefly by the recipe, with its
teachers; the best on validation is then trained, exported and timed like any other student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from distill.config import ModelConfig, Recipe, RunConfig
from distill.environment import environment
from distill.errors import UserError
from distill.files import JsonModel, read_json, write_json
from distill.pipeline import stages
from distill.pipeline.bench import exported_files
from distill.pipeline.experiment import Experiment
from distill.pipeline.plan import check_plugins, check_weights
from distill.scoring.tasks import task_of
from distill.search.space import (
    Candidate,
    Limits,
    ShapeRow,
    candidates,
    image_sizes,
    judge,
    promising_of,
)
from distill.search.timing import random_student, time_candidates, time_files

BRIEF = "brief-"  # prefix of the runs that decide
STAGES = ("teacher", "student", "export", "bench", "report")


class Winner(JsonModel):
    """The shape that was chosen."""

    name: str
    options: dict[str, Any]
    size: int


class ShippedFile(JsonModel):
    """What an exported file costs, measured as the candidates were."""

    latency_ms: float
    size_bytes: int


class SearchReport(JsonModel):
    """What `search.json` holds: at first what the shapes cost, in the end what came of them.

    Attributes:
        identity: What the costs depend on: they are measured again where it differs.
        env: What they were measured with.
        shipped: By file name.
        experiment: The directory that the winner was trained in.
    """

    identity: dict[str, Any]
    candidates: tuple[ShapeRow, ...]
    env: dict[str, Any]
    limits: Limits | None = None
    winner: Winner | None = None
    shipped: dict[str, ShippedFile] | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class Search:
    """A recipe whose student is looked for, within limits.

    Attributes:
        base: The recipe as an experiment; its directory gets `search.json`, and an experiment
            directory per size of images that is tried.
    """

    base: Experiment
    limits: Limits

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was given."""
        return self.base.recipe

    def experiment(
        self, size: int, students: Sequence[RunConfig], seeds: int | None = None
    ) -> Experiment:
        """The recipe at a size of images, with other students.

        Args:
            seeds: Instead of the recipe's.
        """
        changes = {
            "data": self.recipe.data.model_copy(update={"size": size}),
            "students": tuple(students),
            "seeds": self.recipe.seeds if seeds is None else seeds,
            "export": self.recipe.export.model_copy(update={"student": "best"}),
        }
        recipe = self.recipe.model_copy(update=changes)
        return replace(
            self.base,
            recipe=recipe,
            out=self.base.out / f"{size}px",
            shared_cache=self.base.out / "cache",
        )

    def student(self, shape: Candidate) -> RunConfig:
        """The recipe's student in another shape."""
        model = ModelConfig(name="compact", options=shape.options)
        return self.recipe.students[0].model_copy(update={"name": shape.name, "model": model})

    def brief(self, shape: Candidate) -> RunConfig:
        """A few epochs of it, with a warm-up as short in proportion."""
        student = self.student(shape)
        share = self.recipe.search.brief_epochs / student.train.epochs
        changes = {
            "epochs": self.recipe.search.brief_epochs,
            "warmup_epochs": student.train.warmup_epochs * min(1.0, share),
        }
        train = student.train.model_copy(update=changes)
        return student.model_copy(update={"name": BRIEF + shape.name, "train": train})


def check_search(search: Search) -> None:
    """Refuses what cannot be searched, before anything is written.

    Raises:
        UserError: No limit, a recipe whose only student is not a compact one from scratch, or
            shapes that cannot be.
    """
    if search.limits == Limits():
        raise UserError("no limit", "--max-latency-ms", "give it, or --max-size-kb, or both")
    models = [student.model for student in search.recipe.students]
    if [model.name for model in models] != ["compact"] or models[0].pretrained is not False:
        what = "what is searched is the shape of one compact student, from scratch"
        raise UserError(what, "students", "name a recipe such as students/compact_masks.toml")
    for size, shapes in groupby(candidates(search.recipe), key=lambda shape: shape.size):
        for number, shape in enumerate(shapes):
            random_student(search.recipe, shape, search.base.source.classes)
            if number == 0:  # the teachers at this size are the same for all
                experiment = search.experiment(size, [search.student(shape)])
                check_plugins(experiment.recipe)
                check_weights(experiment, ("teacher",), load=False)


def plan(search: Search) -> list[str]:
    """What a search would do, as lines; nothing is timed or trained."""
    recipe, space = search.recipe, search.recipe.search
    count = sum(1 for _ in candidates(recipe))
    sizes = " and ".join(f"{size} px" for size in image_sizes(recipe))
    return [
        f"{count} shapes at {sizes}, timed as {space.precision} files",
        f"at most {space.promising} of them trained for {space.brief_epochs} epochs",
        f"the best for {recipe.students[0].train.epochs}, into {search.base.out}",
    ]


def find_student(search: Search) -> SearchReport:
    """Times all shapes, tries some and trains one; repeated, it continues where it was stopped.

    Returns:
        What is in `search.json`, complete.

    Raises:
        UserError: No shape is within the limits.
    """
    recipe, place = search.recipe, search.base.out / "search.json"
    timed = timed_candidates(search, place)
    rows = judge(timed.candidates, search.limits, recipe.search.promising)
    promising = promising_of(rows)
    if not promising:
        raise UserError(nearest(rows), "limits", "raise them, or add narrower search.widths")
    shapes = {shape.name: shape for shape in candidates(recipe)}
    tried = try_briefly(search, promising, shapes)
    winner = max(promising, key=lambda row: tried[row.name])
    shape = shapes[winner.name]
    experiment = search.experiment(shape.size, [search.student(shape)])
    stages.run_stages(experiment, STAGES, dry_run=False, as_json=False)
    changes: dict[str, dict[str, Any]] = {name: {"brief_val": tried[name]} for name in tried}
    best_score = experiment.finished(shape.name).best_score
    changes[shape.name] |= {"outcome": "winner", "val": best_score}
    final_rows = (
        row.model_copy(update=changes[row.name]) if row.outcome == "promising" else row
        for row in rows
    )
    final = {
        "limits": search.limits,
        "candidates": tuple(final_rows),
        "winner": Winner(name=shape.name, options=shape.options, size=shape.size),
        "shipped": shipped_costs(experiment),
        "experiment": str(experiment.out),
    }
    report = timed.model_copy(update=final)
    write_json(place, report.to_json())
    return report


def timed_candidates(search: Search, place: Path) -> SearchReport:
    """What every shape costs here, from `search.json` if they were timed before."""
    recipe, env = search.recipe, environment()
    identity = {
        "search": recipe.search.model_dump(mode="json", exclude={"promising", "brief_epochs"}),
        "shapes": [shape.name for shape in candidates(recipe)],
        "base": recipe.students[0].model.options,
        "classes": len(search.base.source.classes),
        "threads": recipe.bench.threads,
        "cpu": env["cpu"],
        "onnxruntime": env["versions"]["onnxruntime"],
    }
    before = read_json(place, dict[str, Any]) if place.is_file() else {}
    if before.get("identity") == identity:
        search.base.progress.say("shapes: timed before, kept")
        main_score = task_of(recipe.data.task).main_score
        kept = tuple(ShapeRow.costs(row, main_score) for row in before["candidates"])
        return SearchReport(identity=identity, candidates=kept, env=before["env"])
    classes = search.base.source.classes
    rows = time_candidates(recipe, candidates(recipe), classes, search.base.progress)
    report = SearchReport(identity=identity, candidates=tuple(rows), env=env)
    write_json(place, report.to_json())
    return report


def try_briefly(
    search: Search, promising: Sequence[ShapeRow], shapes: dict[str, Candidate]
) -> dict[str, float]:
    """Trains promising shapes for a few epochs: the best validation score of each."""
    scores = {}
    for size in sorted({shapes[row.name].size for row in promising}):
        names = [row.name for row in promising if shapes[row.name].size == size]
        students = [search.brief(shapes[name]) for name in names]
        experiment = search.experiment(size, students, seeds=0)
        stages.run_stages(experiment, ("teacher", "student"), dry_run=False, as_json=False)
        for name, student in zip(names, students, strict=True):
            scores[name] = experiment.finished(student.name).best_score
    return scores


def nearest(rows: Sequence[ShapeRow]) -> str:
    """What to say where nothing is within the limits."""
    fastest = min(row.latency_ms for row in rows)
    smallest = min(row.size_bytes for row in rows)
    return (
        f"none of {len(rows)} shapes is within the limits: the fastest takes "
        f"{fastest:.3f} ms, the smallest {smallest / 1000:.0f} kB"
    )


def shipped_costs(experiment: Experiment) -> dict[str, ShippedFile]:
    """Size and latency of the exported files, measured as the candidates were."""
    files = exported_files(experiment.out)
    times = time_files(files, experiment.recipe.bench.threads, experiment.progress)
    return {
        file.name: ShippedFile(latency_ms=spent, size_bytes=file.stat().st_size)
        for file, spent in zip(files, times, strict=True)
    }
