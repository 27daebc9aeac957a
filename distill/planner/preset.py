"""A preset: a recipe in `students/presets/` that leaves sizes and epochs to the plan.

Its table `[plan]` says between what bounds. What a preset or the command line sets for good, the
plan does not touch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from distill.config import Count, Options, Positive
from distill.errors import UserError
from distill.overrides import default_name, set_options
from distill.recipe import check_table, read_table

Table = dict[str, Any]


def _rising(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{bounds[0]} > {bounds[1]}, bounds are written [low, high]")
    return bounds


Bounds = Annotated[tuple[Count, Count], AfterValidator(_rising)]


class Amount(Options):
    """How long the runs of a role train."""

    steps: Count
    """Optimiser steps where there is time for them."""
    epochs: Bounds
    """Fewest and most epochs that these may be."""


class Preset(Options):
    """Bounds of a plan."""

    minutes: Positive
    """Time that the whole may take, unless the command line says otherwise."""
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Sizes of the images to choose from, in pixels."""
    teachers: Count
    """Teachers that are trained: the first of the list whose weights can be had."""
    teacher: Amount
    """How long each of them trains."""
    student: Amount
    """How long each student trains."""
    views: Count = 8
    """Views of each image that a student's teacher answers, at least."""


def preset_names() -> list[str]:
    """Names of the presets."""
    return sorted(file.stem for file in _folder().glob("*.toml"))


def read_preset(
    name: str, overrides: Sequence[str] = (), teachers: Sequence[str] = ()
) -> tuple[Preset, Table]:
    """Bounds of a preset, and the rest of it as a table of a recipe with overrides.

    Args:
        teachers: Names of models instead of the preset's own, all of which are trained.

    Raises:
        UserError: There is none of that name.
    """
    file = _folder() / f"{name}.toml"
    if not file.is_file():
        hint = f"one of {', '.join(preset_names())}"
        raise UserError(f"no preset {name!r}", "--preset", hint)
    table = read_table(file)
    bounds = check_table(Preset, table.pop("plan"), f"plan of {name}")
    if teachers:
        like = {key: value for key, value in table["teachers"][0].items() if key != "name"}
        models = [{"model": {"name": model, "pretrained": True}} for model in teachers]
        runs = [{**copy.deepcopy(like), **model} for model in models]
        names = [default_name(run, "teacher") for run in runs]
        table["teachers"] = [
            {"name": name, **run} for name, run in zip(_apart(names), runs, strict=True)
        ]
    set_options(table, overrides)
    return bounds.model_copy(update={"teachers": len(teachers) or bounds.teachers}), table


def _apart(names: Sequence[str]) -> list[str]:
    """The names, those after the first of one kind with a number: of two weights of a network."""
    return [
        name if name not in names[:place] else f"{name}-{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]


def _folder() -> Path:
    return Path(str(files("distill.students"))) / "presets"
