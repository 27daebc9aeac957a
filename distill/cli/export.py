"""`distill export`: making files that are shipped."""

from __future__ import annotations

from textwrap import fill
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from distill.cli.options import ExperimentArg, Overrides, takes
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings

WIDTH = 76  # columns of an epilogue on a terminal of 80


class ExportHelp(TyperCommand):
    """A command whose help says which targets there are, as their files do."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The targets are looked for when the help is asked for, and not before."""
        from distill.registry import summaries

        lines = [f"{name:<12} {text}" for name, text in summaries("export", "Target").items()]
        wrapped = [fill(line, WIDTH, subsequent_indent=" " * 13) for line in lines]
        targets = escape("\n".join(["Targets:", *wrapped]))
        self.epilog = f"{targets}\n\n{self.epilog}"
        super().format_help(ctx, formatter)


@takes("device", "workers", "data", "trust", "dry_run", "as_json")
def export_command(
    experiment: ExperimentArg,
    settings: Settings,
    overrides: Overrides = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="Another target, of those below; may be repeated."),
    ] = None,
) -> None:
    """Export the best student, verified; what is made already is kept."""
    opened = opening.reopen_experiment(experiment, overrides, settings)
    if target:
        opened = opening.with_targets(opened, target)
    stages.run_stages(opened, ("export",), settings.dry_run, settings.as_json)
