"""`distill compare`: finished runs on one test set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill.cli.options import takes
from distill.errors import printable
from distill.pipeline import stages
from distill.pipeline.opening import Settings


@takes("as_json")
def compare_command(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories; the others are compared with the first.")
    ],
    settings: Settings,
    margin: Annotated[
        float, typer.Option("--margin", min=0.0, max=100.0, help="Points that make no difference.")
    ] = 0.5,
) -> None:
    """Is one run better than another? A verdict over images and seeds, with its interval.

    Runs of other seeds, NAME-seed1 and so on beside a run, count with it.
    """
    from distill.pipeline.compare import compare_runs
    from distill.report.table import question_lines

    found = {"questions": [verdict.to_json() for verdict in compare_runs(runs, margin)]}
    for line in question_lines(found["questions"]):
        print(printable(line))
    stages.emit(found, settings.as_json)
