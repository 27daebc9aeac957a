"""A plan: the recipe for a data source on this machine, and what it will take.

Networks are timed for some seconds each. The steps of the preset are kept where its minutes allow
it; else the images get smaller, then the steps fewer, then the teachers. A plan that was made for
the same request is kept, so that repeating the command continues the experiment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.config import Recipe
from distill.data.sources import Source, open_source
from distill.errors import UserError
from distill.files import read_json
from distill.models.origin import can_load
from distill.pipeline.experiment import PLAN, RECIPE
from distill.planner.facts import Facts, look
from distill.planner.forecast import Forecast, forecast
from distill.planner.pace import Pace, load, take_pace
from distill.planner.preset import Preset, Table, read_preset
from distill.planner.request import Request
from distill.planner.schedule import scheduled
from distill.progress import Progress, span
from distill.recipe import check_table, load_recipe, shrink, write_toml

ENOUGH = 0.5  # share of the preset's steps for which smaller images are not worth it
HALVINGS = 7  # of the share of steps, to a hundredth


@dataclass(frozen=True)
class Plan:
    """A recipe, why it is as it is, and what it will take.

    Attributes:
        record: The content of `plan.json`: what it was made for, notes for whoever is to agree,
            and the seconds that each stage will take, unless nobody measured.
    """

    recipe: Recipe
    record: dict[str, Any]

    def toml(self) -> str:
        """The recipe as far as it differs from the defaults, the notes as comments above it."""
        lines = [f"# {note}" for note in self.record["notes"]]
        return "\n".join([*lines, "", write_toml(self.recipe, whole=False)])


def kept_plan(request: Request, folder: Path) -> Plan | None:
    """The plan that was made here for the same request and images."""
    if not (folder / PLAN).is_file():
        return None
    record = read_json(folder / PLAN)
    asked = request.describe(open_source(request.location, None))
    return Plan(load_recipe(folder / RECIPE), record) if record["asked"] == asked else None


def make_plan(request: Request, device: torch.device, progress: Progress) -> Plan:
    """Looks at the data, times networks and decides.

    Raises:
        UserError: The data cannot be used, an option does not fit, or no teacher's weights can be
            had.
    """
    draft = open_draft(request, device, progress)
    recipe, record = draft.brief() if request.smoke else draft.decide()
    return Plan(recipe, {"asked": request.describe(draft.source), **record})


def open_draft(request: Request, device: torch.device, progress: Progress) -> Draft:
    """The preset as somebody asked for it, and the data."""
    preset, table = read_preset(request.preset, request.overrides, request.teachers)
    preset = preset.model_copy(update={"minutes": request.minutes or preset.minutes})
    task = table.setdefault("data", {}).get("task")
    source = open_source(request.location, task)
    table["data"]["task"] = source.task
    return Draft(source, preset, table, request.workers, device, progress)


@dataclass(frozen=True)
class Draft:
    """A plan in the making."""

    source: Source
    preset: Preset
    table: Table
    workers: int
    device: torch.device
    progress: Progress

    def recipe(self, size: int, facts: Facts, share: float) -> Recipe:
        """The recipe for a size of images and a share of the preset's steps."""
        table = scheduled(self.table, self.preset, facts.counts["train"], share)
        table["data"].setdefault("size", size)
        return check_table(Recipe, table, "plan")

    def facts(self) -> Facts:
        """What the data are."""
        data = check_table(Recipe, {"data": self.table["data"]}, "plan").data
        return look(self.source, data, self.workers)

    def sizes(self, facts: Facts) -> list[int]:
        """Sizes to choose from, the largest first: none is larger than pictures are."""
        fitting = [size for size in self.preset.sizes if size <= facts.short_side]
        given = self.table["data"].get("size")
        return [given] if given else sorted(fitting, reverse=True) or [min(self.preset.sizes)]

    def brief(self) -> tuple[Recipe, dict[str, Any]]:
        """The recipe that only tries things out; nothing is measured."""
        facts, table = self.facts(), self.table
        table["teachers"] = table["teachers"][: self.preset.teachers]
        shrink(table)
        recipe = self.recipe(self.sizes(facts)[-1], facts, 1.0)
        return recipe, {"notes": list(describe(recipe, facts))}

    def decide(self) -> tuple[Recipe, dict[str, Any]]:
        """The recipe, notes on it, and what it will take."""
        facts = self.facts()
        sizes, limit = self.sizes(facts), 60.0 * self.preset.minutes
        left_out = self.leave_out(self.recipe(sizes[0], facts, 1.0))
        paces = self.measure(self.recipe(sizes[0], facts, 1.0))
        size, measured = sizes[0], sizes[0]
        for size in sizes:
            scaled = {name: at_size(pace, measured, size) for name, pace in paces.items()}
            share = self.share(size, facts, scaled, limit)
            if share >= ENOUGH:
                break
        if size != measured:
            paces = self.measure(self.recipe(size, facts, 1.0))
        share = self.share(size, facts, paces, limit)
        recipe = self.recipe(size, facts, share)
        expected = forecast(recipe, facts, paces)
        if expected.total > limit and len(self.table["teachers"]) > 1:
            self.table["teachers"] = self.table["teachers"][:1]
            recipe = self.recipe(size, facts, self.share(size, facts, paces, limit))
            expected = forecast(recipe, facts, paces)
        notes = [*describe(recipe, facts), *left_out, *in_time(expected, limit)]
        return recipe, {"notes": notes, **expected.describe()}

    def share(self, size: int, facts: Facts, paces: Mapping[str, Pace], limit: float) -> float:
        """The largest share of the preset's steps that takes no longer than so many seconds."""

        def takes(share: float) -> float:
            return forecast(self.recipe(size, facts, share), facts, paces).total

        if takes(1.0) <= limit:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if takes(middle) <= limit else (low, middle)
        return low

    def leave_out(self, recipe: Recipe) -> list[str]:
        """Keeps the first teachers whose weights can be had in the table; why not the others.

        Raises:
            UserError: Those of no teacher can be had.
        """
        errors: list[UserError] = []
        kept: list[Table] = []
        for run, config in zip(self.table["teachers"], recipe.teachers, strict=True):
            if len(kept) == self.preset.teachers:
                break
            if problem := can_load(config.model):
                errors.append(problem)
            else:
                kept.append(run)
        if errors and not kept:
            raise errors[0]
        self.table["teachers"] = kept
        return [f"left out: {error.what}" for error in errors]

    def measure(self, recipe: Recipe) -> dict[str, Pace]:
        """Paces of all runs."""
        paces: dict[str, Pace] = {}
        runs = (*recipe.teachers, *recipe.students)
        with self.progress.task("time networks", len(runs), "networks") as task:
            for config in runs:
                classifier = load(config, recipe.data, self.source.classes)
                paces[config.name] = take_pace(classifier, config, recipe, self.device)
                task.advance()
        return paces


def at_size(pace: Pace, measured: int, size: int) -> Pace:
    """About what a pace is at another size of images: work grows with their area."""
    train, frozen, validate, answer = (s * (size / measured) ** 2 for s in pace[:-1])
    return Pace(train, frozen, validate, answer, pace.spread)


def describe(recipe: Recipe, facts: Facts) -> Iterator[str]:
    """What there is and what is made of it, line by line."""
    counts = facts.counts
    yield (
        f"{facts.images:,} images of {facts.classes} classes, about {counts['train']:,} to train "
        f"on, {counts['val']:,} to choose by, {counts['test']:,} to test"
    )
    yield f"pictures are {facts.short_side} px across, networks see {recipe.data.size} px"
    for role, runs in (("teacher", recipe.teachers), ("student", recipe.students)):
        for run in runs:
            yield f"{role} {run.name}: {run.model.name}, {run.train.epochs} epochs"


def in_time(expected: Forecast, limit: float) -> Iterator[str]:
    """What a plan will take, and whether that is more than was asked for."""
    low, high = expected.range_s
    stages = ", ".join(f"{name} {span(s)}" for name, s in expected.seconds.items())
    yield f"about {span(expected.total)} ({span(low)} to {span(high)}): {stages}"
    if expected.total > 1.05 * limit:
        yield f"{span(limit)} are too few: fewer images, smaller ones (data.size), or a GPU"
