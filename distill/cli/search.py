"""`distill search`: the best student within a limit on latency, on size, or on both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from distill.cli.options import DataOpt, Overrides, RecipeArg, takes
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings

if TYPE_CHECKING:
    from distill.search.find import SearchReport
    from distill.search.space import Outcome, ShapeRow

SHOWN = 12  # rows of each outcome in the terminal's table; all are in search.json
ORDER: tuple[Outcome, ...] = (
    "winner",
    "promising",
    "not promising",
    "dominated",
    "too slow",
    "too large",
)


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

    Shapes, precision and the epochs of the short training are the table `search` of the recipe.
    """
    from distill.recipe import check_table
    from distill.report.table import show
    from distill.search.find import Search, check_search, find_student, plan
    from distill.search.space import Limits

    table = {"max_latency_ms": max_latency_ms}
    table["max_size_bytes"] = None if max_size_kb is None else 1000 * max_size_kb
    limits = check_table(Limits, table, "distill search")
    search = Search(opening.open_experiment(recipe, overrides, data, settings), limits)
    check_search(search)
    if settings.dry_run:
        lines = plan(search)
        print("\n".join(lines))
        stages.emit({"plan": lines}, settings.as_json)
        return
    report = find_student(search)
    assert report.winner is not None
    show(search_table(report.candidates))
    print(f"{report.winner.name}: its experiment directory is {report.experiment}")
    print(shipped_line(report))
    stages.emit(report.to_json(), settings.as_json)


def shipped_line(report: SearchReport) -> str:
    """What the file that ships costs, and whether that is within the limits after all."""
    from distill.runtime.shipped import preferred
    from distill.search.space import Limits, exceeded

    files = report.shipped or {}
    name = preferred(files)
    if name is None:
        return "no file is shipped"
    costs = files[name]
    line = f"{name}: {costs.size_bytes / 1000:.0f} kB, {costs.latency_ms:.3f} ms"
    reason = exceeded(costs.size_bytes, costs.latency_ms, report.limits or Limits())
    if reason is None:
        return line
    timed = report.identity["search"]["precision"]
    lost = timed == "int8" and "int8" not in name
    why = (
        "no int8 file passed (export.json)" if lost else "shapes have random weights and no scores"
    )
    return f"warning: {line}: {reason} after all: {why}; search with lower limits"


def search_table(rows: Sequence[ShapeRow]) -> Table:
    """What every shape gave, the winner first, the larger before the smaller."""
    table = Table(title="shapes of the student", box=box.SIMPLE)
    table.add_column("shape")
    for name in ("params", "million MACs", "kB", "ms", "images/s", "brief val %", "val %"):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    counts = Counter(row.outcome for row in rows)
    for outcome in ORDER:
        same = sorted((row for row in rows if row.outcome == outcome), key=lambda row: -row.macs)
        for row in same[:SHOWN]:
            table.add_row(
                escape(row.name),
                f"{row.params:,}",
                f"{row.macs / 1e6:.1f}",
                f"{row.size_bytes / 1000:.0f}",
                f"{row.latency_ms:.3f}",
                f"{row.images_per_s:,.0f}",
                *("" if score is None else f"{score:.2f}" for score in (row.brief_val, row.val)),
                outcome,
            )
    for outcome in ORDER:
        if counts[outcome] > SHOWN:
            table.add_row(f"and {counts[outcome] - SHOWN} more", *[""] * 7, outcome)
    return table
