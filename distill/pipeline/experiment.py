"""An experiment: a recipe, its data, its directory, and which of its runs depends on which."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from distill.config import Recipe
from distill.data.audit.listing import Listing, list_data
from distill.data.prepare import ImageData, decode_listing
from distill.data.sources import Source, open_source
from distill.data.store import Split
from distill.data.unlabelled import prepare_unlabelled
from distill.data.views.parameters import check_views
from distill.files import atomic, write_json
from distill.progress import Progress
from distill.recipe import write_toml
from distill.training.imbalance import check_class_weights


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


def write_description(experiment: Experiment) -> None:
    """Keeps the complete recipe and what is known of the data beside the results."""
    with atomic(experiment.out / "recipe.toml") as temporary:
        temporary.write_text(write_toml(experiment.recipe), "utf-8")
    described = {**experiment.data.describe(), "smoke": experiment.smoke}
    if experiment.extra:
        described["unlabelled"] = experiment.extra[1]
    write_json(experiment.out / "data.json", described)
