"""`distill run`: the whole pipeline, of a recipe or of data alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill.cli.options import FindLrOpt, Overrides, PresetOpt, TeachersOpt, takes
from distill.environment import num_processes
from distill.errors import UserError
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings
from distill.planner.request import DEFAULT, Request

if TYPE_CHECKING:
    from distill.pipeline.experiment import Experiment


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
    preset: PresetOpt = None,
    teachers: TeachersOpt = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=1.0, max=1e6, help="Of a plan: time for all of it."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", min=1, max=100, help="Does a teacher help? Pairs of seeds to tell."
        ),
    ] = None,
    find_lr: FindLrOpt = False,
    no_bench: Annotated[bool, typer.Option("--no-bench", help="Leave the timings out.")] = False,
) -> None:
    """All stages: check, teacher, student, export, report, bench.

    With DATA alone the recipe is planned for it and for this machine; --dry-run prints the plan.
    """
    if seeds:
        overrides = [*(overrides or []), f"seeds={seeds}"]
    chosen = tuple(stage for stage in stages.ALL_STAGES if stage != "bench" or not no_bench)
    if is_recipe(what):
        if data is None:
            raise UserError("no images to train on", what, "add --data FOLDER")
        flags = {"--preset": preset, "--teacher": teachers, "--minutes": minutes}
        if given := [flag for flag, value in flags.items() if value]:
            raise UserError(
                f"{given[0]} is for plans, a recipe is one already", what, "leave it out"
            )
        experiment = opening.open_experiment(what, overrides, data, settings)
        expect: stages.Expect | None = None
        if num_processes() == 1 and not settings.smoke:  # several would measure what they share
            from distill.planner.expected import with_forecast

            expect = with_forecast
        start(experiment, chosen, settings, find_lr, expect)
    elif data is not None:
        raise UserError("not a recipe", what, "name a .toml file, or the data alone")
    else:
        request = Request(
            what,
            preset or DEFAULT,
            tuple(opening.with_seed(overrides, settings.seed)),
            tuple(teachers or ()),
            minutes,
            settings.smoke,
            settings.workers,
            settings.unlabelled,
            chosen,
        )
        run_planned(chosen, request, settings, find_lr)


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
    """Stages of a recipe's experiment, see `start`."""
    experiment = opening.open_experiment(recipe, overrides, data, settings)
    start(experiment, chosen, settings, find_lr)


def start(
    experiment: Experiment,
    chosen: tuple[str, ...],
    settings: Settings,
    find_lr: bool,
    expect: stages.Expect | None = None,
) -> None:
    """Stages of an experiment, or the range tests of the runs in them."""
    if find_lr:
        stages.find_learning_rates(experiment, chosen, settings.dry_run, settings.as_json)
    else:
        stages.run_stages(experiment, chosen, settings.dry_run, settings.as_json, expect)


def run_planned(
    chosen: tuple[str, ...], request: Request, settings: Settings, find_lr: bool
) -> None:
    """Plans, unless that was done before, and runs the plan; a dry run prints it."""
    from distill.data.sources import open_source, open_unlabelled
    from distill.device import resolve_device
    from distill.planner.plan import kept_plan, make_plan
    from distill.progress import Progress

    location = request.location
    if num_processes() > 1:
        hint = f"plan alone: distill run {location} --dry-run > plan.toml, and share that recipe"
        raise UserError("processes cannot share the making of a plan", "torchrun", hint)
    for place in settings.also or ():  # before a minute of planning
        open_source(place, None, to_train=False)
    if settings.unlabelled:
        open_unlabelled(settings.unlabelled)
    out = settings.out or Path("runs") / request.name
    stages.check_out(out)
    plan = None if settings.dry_run else kept_plan(request, out, settings.overwrite)
    planned = plan or make_plan(request, resolve_device(settings.device), Progress())
    experiment = opening.experiment_of(planned.recipe, location, out, settings)
    if settings.dry_run:
        stages.check_first(experiment, chosen)  # as the stages would, before they begin
        print(planned.toml(), end="")
        stages.emit({"plan": planned.record["notes"]}, settings.as_json)
        return
    if plan is None:
        print(planned.toml(), end="", file=sys.stderr)
    start(experiment.with_plan(planned.record), chosen, settings, find_lr)
