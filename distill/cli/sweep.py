"""`distill sweep`: a recipe's student with several options changed, and which of them is best."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from distill.cli.options import DataOpt, RecipeArg, takes
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings

if TYPE_CHECKING:
    from distill.search.sweep import SweepFile

SHOWN = 20  # trials in the terminal's table; all are in sweep.json


@takes()
def sweep_command(
    recipe: RecipeArg,
    data: DataOpt,
    settings: Settings,
    wishes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUES",
            help="Of the student: train.lr=1e-4..1e-2, strategy.temperature=1,2,4; one value "
            "overrides the recipe's; all: distill options.",
        ),
    ],
    method: Annotated[
        Literal["auto", "grid", "random", "optuna"],
        typer.Option("--search", help="auto: a grid of lists; at random with a range or --trials."),
    ] = "auto",
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="At most so many; 10 where not a grid.")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=100, help="Runs of each trial, and of the student.")
    ] = 1,
) -> None:
    """Which options are best? The last student of a recipe with several changed at once.

    Judged on validation: the test split is not read. The best becomes a recipe, best.toml.
    Repeat to continue; with more trials, those there are stay.
    """
    from distill.recipe import load_recipe
    from distill.report.table import show
    from distill.search.sweep import BEST, Sweep, plan_sweep, run_sweep
    from distill.search.trials import chosen_method, read_axes

    axes, overrides = read_axes(wishes)
    loaded = load_recipe(recipe, opening.with_seed(overrides, settings.seed), settings.smoke)
    sweep = Sweep(loaded, axes, chosen_method(method, axes, trials), trials, seeds)
    out = settings.out or Path("runs") / f"{Path(recipe).stem}-sweep"
    experiment = opening.experiment_of(plan_sweep(sweep), data, out, settings)
    if settings.dry_run:
        stages.run_stages(experiment, ("check", "teacher", "student"), True, settings.as_json)
        return
    stages.run_stages(experiment, ("check", "teacher"), False, False)
    found = run_sweep(experiment, sweep)
    show(sweep_table(found, [axis.key for axis in axes]))
    again = ["distill", "run", str(out / BEST), "--data", data]
    again += ["--unlabelled", settings.unlabelled] if settings.unlabelled else []
    print(f"{out / BEST}: {found.best}; what it is worth on test: {shlex.join(again)}")
    stages.emit({"out": str(out), **found.to_json()}, settings.as_json)


def sweep_table(found: SweepFile, keys: list[str]) -> Table:
    """The trials, the best first, and the student of the recipe among them."""
    mean = sum(found.base_scores) / len(found.base_scores)
    table = Table(title=f"{found.base} with options changed, on validation", box=box.SIMPLE)
    for key in keys:
        table.add_column(escape(key), justify="right")
    for name in (f"{found.score} %", "points"):
        table.add_column(name, justify="right")
    table.add_column("95 % interval")
    table.add_column("verdict")
    rows: list[tuple[float, list[str]]] = [(mean, ["as it is"] + [""] * (len(keys) - 1))]
    rows[0][1].extend([f"{mean:.2f}", "", "", ""])
    for row in found.rows:
        cells = [row.settings[key] for key in keys]
        if row.score is None or row.verdict is None:
            rows.append((-1.0, [*cells, "", "", "", row.state]))
            continue
        low, high = row.verdict.interval_points
        points, interval = f"{row.verdict.difference_points:+.2f}", f"{low:+.2f} to {high:+.2f}"
        rows.append((row.score, [*cells, f"{row.score:.2f}", points, interval, row.verdict.word]))
    rows.sort(key=lambda item: -item[0])
    for _, cells in rows[:SHOWN]:
        table.add_row(*map(escape, cells))
    if len(rows) > SHOWN:
        table.add_row(f"and {len(rows) - SHOWN} more", *[""] * (len(keys) + 3))
    return table
