"""`distill check`: what is in a data source, what is wrong with it, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill.cli.options import DataArg, Overrides, takes
from distill.errors import UserError
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings
from distill.progress import Progress


@takes("out", "seed", "workers", "device", "as_json")
def check_command(
    data: DataArg,
    settings: Settings,
    overrides: Overrides = None,
    split: Annotated[
        str | None, typer.Option("--split", help="given, grouped, shifted or random: data.split.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Keep given splits, but move copies that straddle.")
    ] = False,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Network to compare images by, such as timm/resnet18."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Its weights, if not the library's own.")
    ] = None,
    label_errors: Annotated[
        str | None,
        typer.Option("--label-errors", help="Recipe whose first teacher doubts the labels."),
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Teachers to train for that.")] = 4,
    show: Annotated[bool, typer.Option("--show", help="Draw training views as views.png.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier files.")] = False,
) -> None:
    """Look at every image: what cannot be used, copies, leaks, splits, and what to do about it.

    With --out, all of it goes there: data.json, manifest.parquet and a page, data.html.
    """
    if repair and split not in (None, "given"):
        raise UserError("repairs the given splits", "--repair", f"leave out --split {split}")
    if label_errors and settings.out is None:
        raise UserError("trains teachers", "--label-errors", "say where to, with --out")
    if weights and backbone is None:
        raise UserError("weights of which network", "--weights", "name it with --backbone")
    from distill.pipeline.check import CheckOptions, check_data
    from distill.recipe import load_recipe, recipe_of

    keys = opening.with_seed(
        [*(overrides or []), *([f"data.split={split}"] if split else [])], settings.seed
    )
    recipe = load_recipe(label_errors, keys) if label_errors else recipe_of(keys)
    options = CheckOptions(
        out=settings.out,
        device=settings.device,
        workers=settings.workers,
        repair=repair,
        backbone=backbone,
        weights=weights,
        label_errors=folds if label_errors else 0,
        show=show,
        overwrite=overwrite,
    )
    stages.emit(check_data(data, recipe, options, Progress()), settings.as_json)
