"""`distill ablate`: what each part of a recipe is worth on these data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from distill.cli.options import DataOpt, Overrides, RecipeArg, takes
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings

if TYPE_CHECKING:
    from distill.pipeline.ablate import Worth

STAGES = ("check", "teacher", "student")


@takes()
def ablate_command(
    recipe: RecipeArg,
    data: DataOpt,
    settings: Settings,
    overrides: Overrides = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="FACTOR[=VALUES]",
            help="teacher, views, temperature, weight, epochs, pretrained, unlabelled, or a key of "
            "the student; repeat. By default all that the recipe has.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=100, help="Pairs of runs for each change.")
    ] = 1,
) -> None:
    """What is each part worth? The last student of a recipe with one thing changed at a time.

    Judged on validation: the test split is not read. Repeat to continue.
    """
    from distill.pipeline.ablate import FILE, judge_ablation, make_ablation
    from distill.recipe import load_recipe
    from distill.report.table import show

    loaded = load_recipe(recipe, opening.with_seed(overrides, settings.seed), settings.smoke)
    ablation = make_ablation(loaded, vary or (), seeds, settings.unlabelled is not None)
    out = settings.out or Path("runs") / f"{Path(recipe).stem}-ablation"
    experiment = opening.experiment_of(ablation.recipe, data, out, settings)
    stages.run_stages(experiment, STAGES, settings.dry_run, settings.as_json and settings.dry_run)
    if settings.dry_run:
        return
    found = judge_ablation(experiment, ablation)
    show(ablation_table(ablation.base.name, found))
    print(out / FILE)
    rows = [worth.to_json() for worth in found]
    stages.emit({"out": str(out), "base": ablation.base.name, "rows": rows}, settings.as_json)


def ablation_table(base: str, rows: Sequence[Worth]) -> Table:
    """What every change is worth, in the order in which they were asked for."""
    table = Table(title=f"{base} with one thing changed, on validation", box=box.SIMPLE)
    for name in ("factor", "value", "score %", "points", "95 % interval", "verdict"):
        table.add_column(name, justify="right" if name in ("score %", "points") else "left")
    for row in rows:
        low, high = row.verdict.interval_points
        table.add_row(
            escape(row.factor),
            escape(row.value),
            f"{sum(row.scores) / len(row.scores):.2f}",
            f"{row.verdict.difference_points:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            row.verdict.word,
        )
    return table
