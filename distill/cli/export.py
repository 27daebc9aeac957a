"""`distill export` and `distill inspect`: making files that are shipped, and looking into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill.cli.options import (
    WORKERS,
    DeviceOpt,
    DryRunOpt,
    ExperimentArg,
    JsonOpt,
    Overrides,
    WorkersOpt,
)
from distill.pipeline import stages


def export_command(
    experiment: ExperimentArg,
    overrides: Overrides = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="Another target, such as triton; may be repeated."),
    ] = None,
    device: DeviceOpt = "auto",
    workers: WorkersOpt = WORKERS,
    dry_run: DryRunOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Export the best student, verified; what is made already is kept."""
    settings = stages.Settings(device=device, workers=workers)
    opened = stages.reopen_experiment(experiment, overrides, settings)
    if target:
        opened = stages.with_targets(opened, target)
    stages.run_stages(opened, ("export",), dry_run, as_json)


def inspect_command(
    model: Annotated[Path, typer.Argument(help="A shipped ONNX file.")], as_json: JsonOpt = False
) -> None:
    """Show what is inside a shipped file; needs no torch, and says more where onnx is installed."""
    from distill.runtime.inspect_file import describe_file, lines_of

    found = describe_file(model)
    for line in lines_of(found):
        print(line)
    stages.emit(found, as_json)
