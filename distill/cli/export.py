"""`distill export` and `distill inspect`: making files that are shipped, and looking into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill.cli.options import ExperimentArg, JsonOpt, Overrides, takes
from distill.pipeline import stages
from distill.pipeline.stages import Settings


@takes("device", "workers", "dry_run", "as_json")
def export_command(
    experiment: ExperimentArg,
    settings: Settings,
    overrides: Overrides = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="Another target, such as triton; may be repeated."),
    ] = None,
) -> None:
    """Export the best student, verified; what is made already is kept."""
    opened = stages.reopen_experiment(experiment, overrides, settings)
    if target:
        opened = stages.with_targets(opened, target)
    stages.run_stages(opened, ("export",), settings.dry_run, settings.as_json)


def inspect_command(
    model: Annotated[Path, typer.Argument(help="A shipped ONNX file.")], as_json: JsonOpt = False
) -> None:
    """Show what is inside a shipped file; needs no torch, and says more where onnx is installed."""
    from distill.runtime.inspect_file import describe_file, lines_of

    record = describe_file(model)
    for line in lines_of(record):
        print(line)
    stages.emit(record, as_json)
