"""Arguments and options that mean the same in every command that has them."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape

from distill.buckets import fetch_file
from distill.environment import is_main_process
from distill.mirror import open_mirror
from distill.pipeline.opening import Settings
from distill.storage import is_address

WORKERS = min(8, os.cpu_count() or 1)

RecipeArg = Annotated[str, typer.Argument(help="TOML recipe, such as students/compact_demo.toml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Such as student.train.lr=1e-3; all: distill options."
    ),
]
DATA_HELP = "Folder of class folders, manifest, or demo; more kinds in docs/data.md."
DataOpt = Annotated[str, typer.Option("--data", help=DATA_HELP)]
DataArg = Annotated[str, typer.Argument(help=DATA_HELP)]


def path_of(text: str) -> Path:
    """A path; an empty name, which would be the folder that one is in, is refused."""
    if not text.strip():
        raise typer.BadParameter("an empty name")
    return Path(text)


def file_path(text: str) -> Path:
    """A path of this machine, for what is written as it comes."""
    if is_address(text):
        raise typer.BadParameter(f"{text} is an address: name a file of this machine")
    return path_of(text)


def experiment_path(text: str) -> Path:
    """A path, of an address the folder in which it is worked on."""
    if not is_address(text):
        return path_of(text)
    folder = open_mirror(text)
    worked_on.append(folder)
    if is_main_process():
        print(f"{text} is worked on in {folder}", file=sys.stderr)
    return folder


def model_path(text: str) -> Path:
    """A path; of an address the file that is there, or the folder of the experiment."""
    is_file = is_address(text) and text.endswith(".onnx")
    return fetch_file(text) if is_file else experiment_path(text)


worked_on: list[Path] = []  # folders that stand for addresses, in this process


OutOpt = Annotated[
    Path | None,
    typer.Option(
        "--out",
        parser=experiment_path,
        metavar="PATH",
        help="Directory or s3://…; without it, runs go below runs/, named by recipe or data.",
    ),
]
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
AlsoOpt = Annotated[
    list[str] | None,
    typer.Option("--also", help="Labelled images from elsewhere to score all on; repeat."),
]
MovedOpt = Annotated[str | None, typer.Option("--data", help="The images, where they have moved.")]
TrustOpt = Annotated[
    bool, typer.Option("--trust", help="Run the modules that a directory may name.")
]
FindLrOpt = Annotated[bool, typer.Option("--find-lr", help="Range test instead of training.")]
PresetOpt = Annotated[
    str | None, typer.Option("--preset", help="Of a plan: fast, balanced (default) or accurate.")
]
TeachersOpt = Annotated[
    list[str] | None,
    typer.Option("--teacher", help="Of a plan: a model instead of the preset's teachers; repeat."),
]
FaceModelOpt = Annotated[
    Path | None,
    typer.Option("--face-model", metavar="FILE", help="A file of YuNet to find faces with."),
]
ModelArg = Annotated[
    Path, typer.Argument(parser=model_path, help="A shipped ONNX file, or an experiment.")
]
ExperimentArg = Annotated[
    Path,
    typer.Argument(parser=experiment_path, help="Directory of distill run, --out of stages."),
]

# What a command may take by name, as fields of `Settings`, and what each is without being given.
COMMON: dict[str, tuple[Any, Any]] = {
    "out": (OutOpt, None),
    "device": (DeviceOpt, "auto"),
    "seed": (SeedOpt, None),
    "workers": (WorkersOpt, WORKERS),
    "overwrite": (OverwriteOpt, False),
    "smoke": (SmokeOpt, False),
    "unlabelled": (UnlabelledOpt, None),
    "also": (AlsoOpt, None),
    "data": (MovedOpt, None),
    "trust": (TrustOpt, False),
    "dry_run": (DryRunOpt, False),
    "as_json": (JsonOpt, False),
}


REOPENED = ("data", "trust")  # of commands that open an experiment again


def examples(*commands: str) -> str:
    """What the help of a command ends with: what one may type, without the program's name."""
    return "\n".join(["Examples:", *(f"distill {escape(command)}" for command in commands)])


def takes(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command common options, which it gets as one value, `settings`.

    typer reads a command's options off its signature, so this writes them there.

    Args:
        names: Fields of `Settings`; none are all but `REOPENED`.
    """
    chosen = names or tuple(name for name in COMMON if name not in REOPENED)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters.values()
        kept = [p.replace(annotation=hints[p.name]) for p in own if p.name != "settings"]
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, kind, default=COMMON[name][1], annotation=COMMON[name][0])
            for name in chosen
        ]

        @functools.wraps(command)
        def with_settings(**arguments: Any) -> None:
            common = {name: arguments.pop(name) for name in chosen}
            command(**arguments, settings=Settings(**common))

        del with_settings.__wrapped__  # or typer would read the signature behind it
        parameters = [*kept, *added]
        with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_settings

    return decorate
