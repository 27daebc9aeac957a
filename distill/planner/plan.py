"""A plan: the recipe for a data source on this machine, and what it will take.

Networks are timed for some seconds each. The steps of the preset are kept where its minutes allow
it; else the images get smaller, then the steps fewer, then the teachers. A plan that was made for
the same request is kept, so that repeating the command continues the experiment.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distill.config import DataConfig, Recipe
from distill.data.audit.listing import list_data
from distill.data.audit.splits import assign_splits, labels_of
from distill.data.sources import Source, open_source, open_unlabelled
from distill.data.workspace import Workspace
from distill.errors import UserError
from distill.files import differing_keys, read_json
from distill.models.origin import can_load
from distill.overrides import shrink
from distill.pipeline.experiment import PLAN, RECIPE
from distill.pipeline.plan import check_plugins
from distill.pipeline.stored import PlanFile
from distill.planner.facts import Facts, look
from distill.planner.forecast import Forecast, forecast
from distill.planner.pace import Pace, take_paces
from distill.planner.preset import Preset, Table, read_preset
from distill.planner.request import Request
from distill.planner.schedule import scheduled
from distill.progress import Progress, span
from distill.recipe import check_table, load_recipe, write_toml
from distill.report.warnings import FEW
from distill.training.trackers import check_installed

ROOM = 0.9  # share of the time that a plan fills
ENOUGH = 0.5  # share of the preset's steps for which smaller images are not worth it
UNEVEN = 5  # times the smallest class that the largest has from which teachers see all as often
BALANCING = {"sampling", "class_weights", "logit_adjustment"}  # options that do something about it
LEAST = 2  # images of a class that are too few, whatever splits are made
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


def kept_plan(request: Request, folder: Path, overwrite: bool = False) -> Plan | None:
    """The plan that was made here for the same request and images; None where there is none.

    Raises:
        UserError: There are runs of another request here, and `overwrite` is off.
    """
    if not (folder / PLAN).is_file():
        return None
    record = read_json(folder / PLAN, PlanFile)
    asked = request.describe(open_source(request.location, None))
    if record["asked"] == asked:
        return Plan(load_recipe(folder / RECIPE, request.track), record)
    if (folder / "teachers").is_dir() and not overwrite:
        by_recipe = "recipe" in record["asked"]
        odd = "a recipe" if by_recipe else ", ".join(differing_keys(record["asked"], asked))
        again = f"distill run {folder / RECIPE} --data {request.location} --out {folder}"
        hint = f"to go on as planned: {again}; else choose another --out, or add --overwrite"
        raise UserError(f"planned for other wishes ({odd})", str(folder), hint)
    return None


def make_plan(request: Request, device: torch.device, progress: Progress) -> Plan:
    """Looks at the data, times networks and decides.

    Raises:
        UserError: The data cannot be used, an option does not fit, or no teacher's weights can be
            had.
    """
    draft = open_draft(request, device, progress)
    recipe, record = draft.smoke() if request.smoke else draft.decide()
    return Plan(recipe, {"asked": request.describe(draft.source), **record})


def open_draft(request: Request, device: torch.device, progress: Progress) -> Draft:
    """The preset as somebody asked for it, and a look at the data."""
    begun = time.monotonic()
    preset, table = read_preset(request.preset, request.overrides, request.teachers)
    preset = preset.model_copy(update={"minutes": request.minutes or preset.minutes})
    data = table.setdefault("data", {})
    check_table(Recipe, {"data": data}, "command line")
    source = open_source(request.location, data.get("task"))
    data["task"] = source.task
    nominal = copy.deepcopy(table)  # checked before anything is reckoned with its numbers
    for run in nominal["teachers"]:
        if isinstance(transfer := run.setdefault("transfer", {}), dict):
            transfer.setdefault("freeze_epochs", 1)  # as `scheduled` will
    check_table(Recipe, nominal, "command line")
    config = check_table(Recipe, {"data": data}, "command line").data
    check_splits(source, config, request.workers, progress)
    facts = look(source, config, request.workers)
    if source.task == "single" and facts.largest >= UNEVEN * facts.smallest:
        for teacher in table["teachers"]:
            train = teacher.setdefault("train", {})
            if BALANCING & train.keys():
                continue
            if data.get("store") == "stream" and source.shard_of is not None:
                train["class_weights"] = "balanced"  # what is read by file is not drawn at will
            else:
                train["sampling"] = "balanced"
    more = len(open_unlabelled(request.unlabelled).items) if request.unlabelled else 0
    return Draft(
        source=source,
        facts=facts,
        preset=preset,
        table=table,
        device=device,
        progress=progress,
        begun=begun,
        teachers_given=bool(request.teachers),
        unlabelled=more,
        stages=request.stages,
    )


def check_splits(source: Source, config: DataConfig, workers: int, progress: Progress) -> None:
    """Looks at the images at once where there seem to be too few: what is odd is told, and why.

    Counting comes first: splitting takes a minute for a million images.

    Raises:
        UserError: They cannot be split.
    """
    free = (item for item in source.items if item.split in (None, "train"))
    found = Counter(label for item in free for label in labels_of(item))
    if min(found[label] for label in range(len(source.classes))) > LEAST:
        return
    try:
        assign_splits(source.items, source.classes, config, 0)
    except UserError:
        if config.split == "shifted":  # for which a network would look at them
            config = config.model_copy(update={"split": "grouped"})
        with tempfile.TemporaryDirectory() as name:
            list_data(source, config, 0, Workspace(Path(name), workers, progress))


@dataclass(frozen=True)
class Draft:
    """A plan in the making.

    Attributes:
        table: The recipe as far as it is decided.
        begun: When planning began, by `time.monotonic`.
        teachers_given: Whether somebody named them: then all are trained.
        unlabelled: Images that students learn from beside the labelled ones.
        stages: That are to run in the time there is.
    """

    source: Source
    facts: Facts
    preset: Preset
    table: Table
    device: torch.device
    progress: Progress
    begun: float
    teachers_given: bool = False
    unlabelled: int = 0
    stages: tuple[str, ...] = ()

    def limit_s(self) -> float:
        """Seconds that are left for the stages, less what a machine may slow down by meanwhile."""
        return ROOM * (60.0 * self.preset.minutes - (time.monotonic() - self.begun))

    @property
    def sizes(self) -> list[int]:
        """Sizes to choose from, the largest first: none is larger than pictures are."""
        fitting = [size for size in self.preset.sizes if size <= self.facts.short_side]
        given = self.table["data"].get("size")
        return [given] if given else sorted(fitting, reverse=True) or [min(self.preset.sizes)]

    def recipe(self, size: int, share: float = 1.0) -> Recipe:
        """The recipe for a size of images and a share of the preset's steps."""
        images = self.facts.counts["train"]
        table = scheduled(self.table, self.preset, images, share, self.unlabelled)
        table["data"].setdefault("size", size)
        return check_table(Recipe, table, "command line")

    def with_teachers(self, runs: Sequence[Table]) -> Draft:
        """The draft with these teachers only."""
        return replace(self, table={**self.table, "teachers": list(runs)})

    def with_weights(self) -> tuple[Draft, list[str]]:
        """The draft with the first teachers whose weights can be had, and why not with others.

        Raises:
            UserError: Those of no teacher can be had.
        """
        errors, kept = list[UserError](), list[Table]()
        configs = self.recipe(self.sizes[0]).teachers
        for run, config in zip(self.table["teachers"], configs, strict=True):
            if len(kept) == self.preset.teachers:
                break
            if problem := can_load(config.model):
                errors.append(problem)
            else:
                kept.append(run)
        if errors and not kept:
            raise errors[0]
        return self.with_teachers(kept), [f"left out: {error.what}" for error in errors]

    def smoke(self) -> tuple[Recipe, dict[str, Any]]:
        """The recipe that only tries things out, and notes on it; nothing is measured."""
        draft = self.with_teachers(self.table["teachers"][: self.preset.teachers])
        shrink(draft.table)
        recipe = draft.recipe(self.sizes[-1])
        return recipe, {"notes": [*describe(recipe, self.facts), *self.source.notes]}

    def decide(self) -> tuple[Recipe, dict[str, Any]]:
        """The recipe, notes on it, and what it will take."""
        size = self.sizes[0]
        recipe = self.recipe(size)
        check_plugins(recipe)
        check_installed(recipe.track)
        draft, left_out = self.with_weights()
        paces = draft.measure(size)
        if (chosen := draft.size_in_time(paces, size)) != size:
            size, paces = chosen, draft.measure(chosen)
        recipe, expected = draft.in_time(size, paces)
        if expected.total > self.limit_s() and not self.teachers_given:
            first, *others = draft.table["teachers"]
            left_out += [f"left out: there is no time to train {run['name']}" for run in others]
            draft = draft.with_teachers([first])
            recipe, expected = draft.in_time(size, paces)
        times = told(expected, 60.0 * self.preset.minutes)
        notes = [*describe(recipe, self.facts), *self.source.notes, *left_out, *times]
        return recipe, {"notes": notes, **expected.describe()}

    def size_in_time(self, paces: Mapping[str, Pace], measured: int) -> int:
        """The largest size that leaves time for `ENOUGH` of the preset's steps, else the smallest.

        Args:
            measured: The size that the paces are of.
        """
        for size in self.sizes:
            scaled = {name: at_size(pace, measured, size) for name, pace in paces.items()}
            recipe = self.recipe(size, ENOUGH)
            if self.forecast(recipe, scaled).total <= self.limit_s():
                return size
        return self.sizes[-1]

    def in_time(self, size: int, paces: Mapping[str, Pace]) -> tuple[Recipe, Forecast]:
        """The recipe of as many steps as there is time for, of the preset's, and its forecast."""

        def of(share: float) -> tuple[Recipe, Forecast]:
            recipe = self.recipe(size, share)
            return recipe, self.forecast(recipe, paces)

        if (whole := of(1.0))[1].total <= self.limit_s():
            return whole
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = of(middle)[1].total <= self.limit_s()
            low, high = (middle, high) if fits else (low, middle)
        return of(low)

    def forecast(self, recipe: Recipe, paces: Mapping[str, Pace]) -> Forecast:
        """What the stages of a recipe will take."""
        expected = forecast(recipe, self.facts, paces, self.unlabelled)
        return expected.of(self.stages) if self.stages else expected

    def measure(self, size: int) -> dict[str, Pace]:
        """Paces of all runs."""
        return take_paces(self.recipe(size), self.source.classes, self.device, self.progress)


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
    tested = facts.smallest * counts["test"] / facts.images
    if tested < FEW:
        yield (
            f"the smallest class has {facts.smallest} images, about {tested:.0f} of them to test: "
            "its scores will tell next to nothing"
        )
    trained = [teacher.train for teacher in recipe.teachers]
    uneven = f"classes have {facts.smallest:,} to {facts.largest:,} images: teachers "
    if any(train.sampling == "balanced" for train in trained):
        yield f"{uneven}see each class as often (train.sampling)"
    elif any(train.class_weights == "balanced" for train in trained):
        yield f"{uneven}weigh each class the same (train.class_weights)"
    yield f"the shorter side has {facts.short_side} px (median), networks see {recipe.data.size}"
    for role, runs in (("teacher", recipe.teachers), ("student", recipe.students)):
        for run in runs:
            yield f"{role} {run.name}: {run.model.name}, {run.train.epochs} epochs"


def told(expected: Forecast, limit_s: float) -> Iterator[str]:
    """What a plan will take, and whether that is more than was asked for."""
    yield expected.told()
    if expected.total > limit_s:
        yield f"{span(limit_s)} are too few: fewer images, smaller ones (data.size), or a GPU"
