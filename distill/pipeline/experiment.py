"""An experiment: a recipe, its data, its directory, and which of its runs depends on which."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from distill.benchmarks.engines import find_engine
from distill.config import Recipe, RunConfig, StrategyConfig
from distill.data.audit.listing import Listing, list_data
from distill.data.prepare import ImageData, decode_listing, input_spec
from distill.data.sources import Source, open_source
from distill.data.store import Split
from distill.data.unlabelled import prepare_unlabelled
from distill.data.views.parameters import check_views
from distill.errors import UserError
from distill.export import make_targets
from distill.files import atomic, is_complete, read_json, write_json
from distill.models.classifier import build_classifier
from distill.models.weights import check_weights_file
from distill.progress import Progress
from distill.recipe import write_toml
from distill.scoring.metrics import main_score
from distill.strategies import make_strategy
from distill.training.imbalance import check_class_weights
from distill.training.selection import check_task, worth


@dataclass(frozen=True)
class Experiment:
    """A recipe, a data source and the directory that everything goes to.

    Attributes:
        unlabelled: Location of images for the teachers' term alone; None for none.
    """

    recipe: Recipe
    location: str
    out: Path
    device: torch.device
    unlabelled: str | None = None
    workers: int = 2
    overwrite: bool = False
    smoke: bool = False
    progress: Progress = field(default_factory=Progress)

    @cached_property
    def source(self) -> Source:
        """The images by name; that the recipe speaks of their classes is checked."""
        recipe = self.recipe
        source = open_source(self.location, recipe.data.task)
        check_views(recipe.views, source.classes, recipe.data.task)
        for config in (*recipe.teachers, *recipe.students):
            check_class_weights(config.train, source.classes, f"{config.name}.train.class_weights")
        return source

    @cached_property
    def listing(self) -> Listing:
        """The data as it was found; checking it is the first stage."""
        recipe, cache = self.recipe, self.out / "cache"
        options = (recipe.seed, cache, self.workers, self.progress, self.smoke)
        return list_data(self.source, recipe.data, *options)

    @cached_property
    def data(self) -> ImageData:
        """The decoded data."""
        recipe, cache = self.recipe, self.out / "cache"
        options = (recipe.data, recipe.views, cache, self.workers, self.progress)
        return decode_listing(self.listing, *options)

    @cached_property
    def extra(self) -> tuple[Split, dict[str, Any]] | None:
        """Unlabelled images and what is known of them."""
        if self.unlabelled is None:
            return None
        recipe, cache = self.recipe, self.out / "cache"
        options = (recipe.data, recipe.views, cache, self.workers, self.progress, self.smoke)
        return prepare_unlabelled(self.unlabelled, self.data, *options)

    def folder(self, name: str) -> Path:
        """The run directory of a teacher or student."""
        is_teacher = name in {teacher.name for teacher in self.recipe.teachers}
        return self.out / ("teachers" if is_teacher else "students") / name


def check_plugins(recipe: Recipe) -> None:
    """Builds every model, strategy and target of a recipe once, so that nothing is wrong later.

    Raises:
        UserError: An unknown name, an option that does not exist or fit, an input size that a
            network cannot work at, a weights file that is not there, nobody to teach a student, or
            a target that cannot be made here.
    """
    spec = input_spec(recipe.data)
    for config in (*recipe.teachers, *recipe.students):
        taught_by = make_strategy(config.strategy).taught_by
        if taught_by == "teachers" and config.teachers == ("best",) and not recipe.teachers:
            where = f"students.{config.name}.teachers"
            raise UserError("nobody to teach it: the recipe has no teachers", where, "add one")
        check_task(config, recipe.data.task)
        if config.engine == "kd_lib":
            from distill.training.kd_lib import check_kd_lib

            check_kd_lib(config, recipe.data.task)
        build_classifier(config.model, ("first", "second"), spec, load=False)
        if isinstance(config.model.pretrained, str):
            check_weights_file(config.model.pretrained)
    make_targets(recipe.export)
    for engine in recipe.bench.engines:
        find_engine(engine, "bench.engines")


def write_description(experiment: Experiment) -> None:
    """Keeps the complete recipe and what is known of the data beside the results."""
    with atomic(experiment.out / "recipe.toml") as temporary:
        temporary.write_text(write_toml(experiment.recipe), "utf-8")
    described = {**experiment.data.describe(), "smoke": experiment.smoke}
    if experiment.extra:
        described["unlabelled"] = experiment.extra[1]
    write_json(experiment.out / "data.json", described)


def self_teacher(config: RunConfig) -> RunConfig:
    """The supervised run of a student that is then taught by it."""
    supervised = StrategyConfig(name="supervised")
    return config.model_copy(update={"name": f"{config.name}-self", "strategy": supervised})


def has_self_teacher(config: RunConfig) -> bool:
    """Whether a supervised run of the same student must come first; KD_Lib makes its own."""
    kind = make_strategy(config.strategy).taught_by
    return kind == "self" and config.teachers == ("best",) and config.engine == "distill"


def student_runs(recipe: Recipe) -> list[RunConfig]:
    """Every student in order, each self-teacher before the one it teaches."""
    return [
        config
        for student in recipe.students
        for config in ((self_teacher(student),) if has_self_teacher(student) else ()) + (student,)
    ]


def all_runs(recipe: Recipe) -> list[RunConfig]:
    """Every run of a recipe, in order."""
    return [*recipe.teachers, *student_runs(recipe)]


def taught_by(experiment: Experiment, config: RunConfig) -> tuple[str, ...]:
    """Names of the runs that teach this one."""
    kind = make_strategy(config.strategy).taught_by
    if has_self_teacher(config):
        return (self_teacher(config).name,)
    if kind == "nobody" or (kind == "self" and config.teachers == ("best",)):
        return ()
    names = [
        best_run(experiment, [t.name for t in experiment.recipe.teachers]) if n == "best" else n
        for n in config.teachers
    ]
    return tuple(dict.fromkeys(names))


def best_run(experiment: Experiment, names: list[str]) -> str:
    """The run of the highest main score on validation, the first of equals."""
    return max(names, key=lambda name: best_validation(experiment.folder(name)))


def best_validation(folder: Path) -> float:
    """The task's main validation score of the kept epoch of a complete run, in percent."""
    if not is_complete(folder):
        stage = folder.parent.name.removesuffix("s")
        raise UserError("this run is not finished", str(folder), f"run `distill {stage}` first")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    select = read_json(folder / "config.json")["run"]["train"]["select"]
    task = read_json(folder / "contract.json")["task"]
    validated = [row for row in rows if "val/loss" in row]
    kept = max(validated, key=lambda row: worth(row, select, task))
    return float(kept[f"val/{main_score(task)}"])


def plan(experiment: Experiment, stages: tuple[str, ...]) -> list[str]:
    """What each stage would do, as lines; nothing is decoded or trained."""
    lines = []
    for config in all_runs(experiment.recipe):
        folder = experiment.folder(config.name)
        role = folder.parent.name.removesuffix("s")
        if role not in stages:
            continue
        done = "done before" if is_complete(folder) else f"{config.train.epochs} epochs"
        begun = (folder / "last").is_dir() and not is_complete(folder)
        state = "continue, of " + done if begun else done
        teachers = "" if role == "teacher" else f" by {config.strategy.name}"
        lines.append(f"{role} {config.name}: {config.model.name}{teachers}, {state}")
    if "export" in stages:
        lines.append(f"export: {', '.join(make_targets(experiment.recipe.export))}")
    lines += [stage for stage in ("bench", "report") if stage in stages]
    return [*lines, f"into {experiment.out}"]
