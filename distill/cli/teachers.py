"""`distill teachers`: which of several teachers teaches best here."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from distill.cli.options import DataArg, Overrides, PresetOpt, TeachersOpt, takes
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings


@takes("out", "device", "seed", "workers", "overwrite", "dry_run", "as_json")
def teachers_command(
    data: DataArg,
    settings: Settings,
    overrides: Overrides = None,
    preset: PresetOpt = None,
    teachers: TeachersOpt = None,
) -> None:
    """Try several teachers briefly and say which teaches the student best."""
    from distill.device import resolve_device
    from distill.planner.request import DEFAULT, Request
    from distill.planner.teachers import brief_recipe, compare_teachers
    from distill.progress import Progress
    from distill.recipe import write_toml
    from distill.report.table import show

    request = Request(
        data,
        preset or DEFAULT,
        tuple(opening.with_seed(overrides, settings.seed)),
        tuple(teachers or ()),
        workers=settings.workers,
    )
    recipe, left_out = brief_recipe(request, resolve_device(settings.device), Progress())
    for line in left_out:
        print(line, file=sys.stderr)
    if settings.dry_run:
        print(write_toml(recipe, whole=False), end="")
        stages.emit({"plan": [run.model.name for run in recipe.teachers]}, settings.as_json)
        return
    out = settings.out or Path("runs") / f"{request.name}-teachers"
    rows = compare_teachers(opening.experiment_of(recipe, data, out, settings))
    table = Table(title="validation, after brief training", box=box.SIMPLE)
    table.add_column("teacher", overflow="fold")
    for name in ("its student %", "itself %", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (f"{row.student_val:.2f}", f"{row.val:.2f}", f"{row.seconds:.0f}")
        table.add_row(escape(row.model), *figures)
    show(table)
    best = [row.model for row in rows if row.student_val == rows[0].student_val]
    teach = "teaches best" if len(best) == 1 else "teach alike"
    again = ["distill", "run", data, *(["--preset", preset] if preset else [])]
    again += ["--teacher", best[0], *(overrides or [])]
    print(f"{' and '.join(best)} {teach}: {shlex.join(again)}")
    stages.emit({"teachers": [row.to_json() for row in rows]}, settings.as_json)
