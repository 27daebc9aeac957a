"""An experiment: a recipe, its data and its directory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from distill.config import Recipe
from distill.data.audit.listing import Listing, list_data
from distill.data.prepare import ImageData, decode_listing
from distill.data.sources import Source, open_source
from distill.data.sources._manifest import FILE, write_manifest
from distill.data.store import Split
from distill.data.unlabelled import prepare_unlabelled
from distill.data.views.parameters import check_views
from distill.data.workspace import Workspace
from distill.errors import UserError
from distill.files import amend_manifest, is_complete, read_manifest, write_json, write_text
from distill.pipeline.embedding import embedder
from distill.progress import Progress
from distill.recipe import module_folders, write_toml
from distill.training.imbalance import check_class_weights
from distill.training.run_directory import FinishedRun, open_run
from distill.training.selection import check_classes

RECIPE, PLAN = "recipe.toml", "plan.json"


@dataclass(frozen=True)
class Experiment:
    """A recipe, a data source and the directory that everything goes to.

    Attributes:
        unlabelled: Location of images for the teachers' term alone; None for none.
        shared_cache: Folder of what does not depend on the runs (decoded images, copies); None for
            `cache/` in the directory.
        opened: Finished runs, by folder, as they were verified.
        plan: What was asked for, and what that will take; None where nobody measured.
        checked: Hashes of the weights of teachers that were found to score as they did.
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
    shared_cache: Path | None = None
    plan: dict[str, Any] | None = None
    opened: dict[Path, FinishedRun] = field(default_factory=dict, repr=False, compare=False)
    checked: set[str] = field(default_factory=set, repr=False, compare=False)

    @cached_property
    def source(self) -> Source:
        """The images by name; that the recipe speaks of their classes is checked."""
        recipe = self.recipe
        source = open_source(self.location, recipe.data.task)
        check_views(recipe.views, source.classes, recipe.data.task)
        for config in (*recipe.teachers, *recipe.students):
            check_class_weights(config.train, source.classes, f"{config.name}.train.class_weights")
            check_classes(config, len(source.classes), recipe.key(config))
        return source

    def with_plan(self, plan: dict[str, Any]) -> Experiment:
        """The same with what it will take; its images are not listed again."""
        planned = replace(self, plan=plan)
        planned.__dict__["source"] = self.source
        return planned

    @cached_property
    def listing(self) -> Listing:
        """The data as it was found; checking it is the first stage."""
        recipe = self.recipe
        embed = embedder(str(self.device), self.workers, self.progress)
        args = (self.source, recipe.data, recipe.seed, self.work, self.smoke)
        return list_data(*args, embed=embed)

    @cached_property
    def data(self) -> ImageData:
        """The decoded data."""
        return decode_listing(self.listing, self.recipe.data, self.recipe.views, self.work)

    @cached_property
    def extra(self) -> tuple[Split, dict[str, Any]] | None:
        """Unlabelled images and what is known of them."""
        if self.unlabelled is None:
            return None
        options = (self.recipe.data, self.recipe.views, self.work, self.smoke)
        return prepare_unlabelled(self.unlabelled, self.listing, *options)

    @property
    def work(self) -> Workspace:
        """Where and how images are read: the cache, the worker processes, the progress."""
        cache = self.shared_cache or self.out / "cache"
        return Workspace(cache, self.workers, self.progress)

    def finished(self, name: str) -> FinishedRun:
        """A finished teacher or student; opened and verified once, unless it is made anew.

        Raises:
            UserError: It is not finished; says which command is missing. Or a file was changed.
        """
        folder = self.folder(name)
        if not is_complete(folder):
            stage = folder.parent.name.removesuffix("s")
            raise UserError("this run is not finished", str(folder), f"run `distill {stage}` first")
        known = self.opened.get(folder)
        if known is None or known.hashes != read_manifest(folder):
            known = self.opened[folder] = open_run(folder)
        runs = (*self.recipe.teachers, *self.recipe.students)
        if known.model.name not in {config.model.name for config in runs}:
            known.check_trusted()  # it may be a module that the recipe does not speak of
        return known

    def folder(self, name: str) -> Path:
        """The run directory of a teacher or student."""
        is_teacher = name in {teacher.name for teacher in self.recipe.teachers}
        return self.out / ("teachers" if is_teacher else "students") / name


def write_description(experiment: Experiment) -> None:
    """Keeps the complete recipe, the splits and what else is known of the data with the results."""
    write_text(experiment.out / RECIPE, write_toml(experiment.recipe))
    described = {**experiment.data.describe(), "smoke": experiment.smoke}
    if (place := Path(experiment.location)).exists():
        described["absolute"] = str(place.resolve())
    if folders := module_folders():
        described["modules"] = folders  # where plug-ins of the user's are, to open it again
    if experiment.extra:
        described["unlabelled"] = dict(experiment.extra[1])
        if (place := Path(str(experiment.unlabelled))).exists():
            described["unlabelled"]["absolute"] = str(place.resolve())
    write_json(experiment.out / "data.json", described)
    if experiment.plan:
        write_json(experiment.out / PLAN, experiment.plan)
    else:
        (experiment.out / PLAN).unlink(missing_ok=True)  # of a recipe that was here before
    write_splits(experiment)
    written = (experiment.out / name for name in (RECIPE, "data.json", PLAN, FILE))
    amend_manifest(experiment.out, *written)


def write_splits(experiment: Experiment) -> None:
    """Writes the manifest of the images that are used, or says why there cannot be one."""
    place, source, data = experiment.out / FILE, experiment.source, experiment.data
    digests = {
        name: digest
        for split in data.splits.values()
        for name, digest in zip(split.names, split.digests, strict=True)
    }
    listed = (row for row in experiment.listing.rows() if row["path"] in digests)
    rows = [{**row, "sha256": digests[row["path"]]} for row in listed]
    try:
        write_manifest(place, rows, source.root, None if source.root else source.location)
    except UserError as error:  # such as names of classes that a table cannot tell apart
        place.unlink(missing_ok=True)
        experiment.progress.say(f"the splits are in data.json alone, without {FILE}: {error}")
