"""Arguments and options that mean the same in every command that has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

WORKERS = min(8, os.cpu_count() or 1)

RecipeArg = Annotated[str, typer.Argument(help="TOML recipe, such as students/compact_demo.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as student.train.lr=1e-3")
]
DATA_HELP = "Folder of class folders, manifest, or demo; more kinds in docs/data.md."
DataOpt = Annotated[str, typer.Option("--data", help=DATA_HELP)]
DataArg = Annotated[str, typer.Argument(help=DATA_HELP)]
OutOpt = Annotated[Path | None, typer.Option("--out", help="Directory; by default runs/RECIPE.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="auto, cpu, cuda[:n] or mps.")]
SeedOpt = Annotated[int | None, typer.Option("--seed", help="Seed; by default the recipe's.")]
WorkersOpt = Annotated[int, typer.Option("--workers", min=1, help="Decoding threads.")]
OverwriteOpt = Annotated[bool, typer.Option("--overwrite", help="Redo stages of other options.")]
SmokeOpt = Annotated[bool, typer.Option("--smoke", help="A few images, two epochs: try it out.")]
DryRunOpt = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="End stdout with one JSON document.")]
UnlabelledOpt = Annotated[
    str | None, typer.Option("--unlabelled", help="Images for the teachers' term alone.")
]
FindLrOpt = Annotated[bool, typer.Option("--find-lr", help="Range test instead of training.")]
ExperimentArg = Annotated[Path, typer.Argument(help="Directory of distill run, --out of stages.")]
