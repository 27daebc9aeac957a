"""`distill run`: the whole pipeline, of a recipe or of data alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from distill.cli.options import FindLrOpt, Overrides, takes
from distill.environment import num_processes
from distill.errors import UserError
from distill.pipeline import stages
from distill.pipeline.stages import Settings

PRESETS = "fast, balanced or accurate"


@takes()
def run_command(
    what: Annotated[
        str, typer.Argument(metavar="DATA|RECIPE", help="Folder of class folders, or a recipe.")
    ],
    settings: Settings,
    overrides: Overrides = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The images, where a recipe is named.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help=f"Of a plan: {PRESETS}.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=1.0, help="Of a plan: time for all of it.")
    ] = None,
    find_lr: FindLrOpt = False,
    no_bench: Annotated[bool, typer.Option("--no-bench", help="Leave the timings out.")] = False,
) -> None:
    """All stages: check, teacher, student, export, bench, report.

    With DATA alone the recipe is planned for it and for this machine; --dry-run prints the plan.
    """
    chosen = tuple(stage for stage in stages.ALL_STAGES if stage != "bench" or not no_bench)
    if is_recipe(what):
        if data is None:
            raise UserError("no images to train on", what, "add --data FOLDER")
        if preset is not None or minutes is not None:
            flag = "--minutes" if preset is None else "--preset"
            raise UserError(f"{flag} is for plans, a recipe is one already", what)
        do_stages(chosen, what, data, settings, overrides, find_lr)
    elif data is not None:
        raise UserError("not a recipe", what, "name a .toml file, or the data alone")
    else:
        run_planned(chosen, what, settings, overrides, preset, minutes)


def is_recipe(what: str) -> bool:
    """Whether an argument names a recipe rather than data."""
    return what.endswith(".toml") and not Path(what).is_dir()


def do_stages(
    chosen: tuple[str, ...],
    recipe: str,
    data: str,
    settings: Settings,
    overrides: list[str] | None,
    find_lr: bool,
) -> None:
    """Stages of an experiment, or the range tests of the runs in them."""
    experiment = stages.open_experiment(recipe, overrides, data, settings)
    if find_lr:
        stages.find_learning_rates(experiment, chosen, settings.as_json)
    else:
        stages.run_stages(experiment, chosen, settings.dry_run, settings.as_json)


def run_planned(
    chosen: tuple[str, ...],
    location: str,
    settings: Settings,
    overrides: list[str] | None,
    preset: str | None,
    minutes: float | None,
) -> None:
    """Plans, unless that was done before, and runs the plan; a dry run prints it."""
    from distill.device import resolve_device
    from distill.planner.plan import Request, kept_plan, make_plan
    from distill.planner.preset import DEFAULT
    from distill.progress import Progress

    if num_processes() > 1:
        hint = f"plan alone: distill run {location} --dry-run > plan.toml, and share that recipe"
        raise UserError("processes cannot share the making of a plan", "torchrun", hint)
    out = settings.out or Path("runs") / (Path(location).resolve().stem or "run")
    request = Request(
        location,
        preset or DEFAULT,
        tuple(stages.with_seed(overrides, settings.seed)),
        minutes,
        settings.smoke,
        settings.workers,
    )
    plan = None if settings.dry_run else kept_plan(request, out)
    if plan is None:
        plan = make_plan(request, resolve_device(settings.device), Progress())
        print(plan.toml(), end="", file=sys.stdout if settings.dry_run else sys.stderr)
        if settings.dry_run:
            return
    experiment = stages.experiment_of(plan.recipe, location, out, settings)
    experiment = replace(experiment, smoke=settings.smoke, plan=plan.record)
    stages.run_stages(experiment, chosen, False, settings.as_json)
