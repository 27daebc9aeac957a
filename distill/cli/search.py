"""`distill search`: the best student within a limit on latency, on size, or on both."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from distill.cli.options import DataOpt, Overrides, RecipeArg, takes
from distill.pipeline import stages
from distill.pipeline.stages import Settings

SHOWN = 12  # rows of each outcome in the terminal's table; all are in search.json
ORDER = ("winner", "promising", "not promising", "dominated", "too slow", "too large")


@takes()
def search_command(
    recipe: RecipeArg,
    data: DataOpt,
    settings: Settings,
    overrides: Overrides = None,
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", help="Of one image, in the shipped file.")
    ] = None,
    max_size_kb: Annotated[
        float | None, typer.Option("--max-size-kb", help="Of the shipped file; 1 kB = 1,000 bytes.")
    ] = None,
) -> None:
    """Find the shape of the compact student that is best within limits, and train it.

    Shapes, precision and the epochs of the short training are [search] in the recipe.
    """
    from distill.recipe import check_table
    from distill.report.table import show
    from distill.search.find import Search, check_search, find_student, plan
    from distill.search.space import Limits

    table = {"max_latency_ms": max_latency_ms}
    table["max_size_bytes"] = None if max_size_kb is None else 1000 * max_size_kb
    limits = check_table(Limits, table, "distill search")
    search = Search(stages.open_experiment(recipe, overrides, data, settings), limits)
    check_search(search)
    if settings.dry_run:
        lines = plan(search)
        print("\n".join(lines))
        stages.emit({"plan": lines}, settings.as_json)
        return
    report = find_student(search)
    show(search_table(report))
    print(f"{report['winner']['name']}: its experiment directory is {report['experiment']}")
    stages.emit(report, settings.as_json)


def search_table(report: dict[str, Any]) -> Table:
    """What every shape gave, the winner first, the larger before the smaller."""
    rows = sorted(report["candidates"], key=lambda r: (ORDER.index(r["outcome"]), -r["macs"]))
    table = Table(title="shapes of the student", box=box.SIMPLE)
    table.add_column("shape")
    for name in ("params", "million MACs", "kB", "ms", "images/s", "brief val %", "val %"):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    shown = dict.fromkeys(ORDER, 0)
    for row in rows:
        shown[row["outcome"]] += 1
        if shown[row["outcome"]] > SHOWN:
            continue
        scores = {key.removesuffix("top1").removesuffix("map"): row[key] for key in row}
        table.add_row(
            escape(row["name"]),
            f"{row['params']:,}",
            f"{row['macs'] / 1e6:.1f}",
            f"{row['size_bytes'] / 1000:.0f}",
            f"{row['latency_ms']:.3f}",
            f"{row['images_per_s']:,.0f}",
            *(f"{scores[key]:.2f}" if key in scores else "" for key in ("brief_val_", "val_")),
            row["outcome"],
        )
    for outcome, count in shown.items():
        if count > SHOWN:
            table.add_row(f"and {count - SHOWN} more", *[""] * 7, outcome)
    return table
