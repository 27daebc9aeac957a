"""The command line: every command, its options, and how failures end.

Results go to stdout, progress and errors to stderr. Exit status: 0 success, 2 a mistake of the
user's, 3 a run that could not finish, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from distill import __version__
from distill.cli.advice import usage_error
from distill.cli.bench import bench_app
from distill.cli.cache import cache_app
from distill.cli.check import check_command
from distill.cli.export import export_command, inspect_command
from distill.cli.options import (
    DataOpt,
    ExperimentArg,
    FindLrOpt,
    JsonOpt,
    Overrides,
    RecipeArg,
    takes,
)
from distill.cli.reference import options_command
from distill.cli.run import do_stages, run_command
from distill.cli.search import search_command
from distill.cli.teachers import teachers_command
from distill.environment import num_processes
from distill.errors import DistillError, UserError
from distill.files import NO_SPACE, no_space
from distill.pipeline import stages
from distill.pipeline.stages import Settings
from distill.progress import Progress

app = typer.Typer(
    name="distill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
SHARED = ("run", "teacher", "student", "cache build")  # commands that several processes may share
TRAINING_PACKAGES = (
    *("torch", "torchvision", "timm", "onnx", "onnxscript", "sklearn"),
    *("safetensors", "matplotlib", "pyarrow"),
)
# What a path of the user's may be to the system; nothing of ours can mend it.
PATH_ERRORS = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
# Newer typers carry a click of their own; their exceptions' base is reached through a public one.
UsageProblem: Any = typer.BadParameter.__mro__[2]


def print_version(wanted: bool) -> None:
    """Answers `--version`, and ends."""
    if wanted:
        print(f"distillate {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """A folder of labelled images in; a small, fast, verified ONNX classifier out."""


def role_command(role: str) -> Callable[..., None]:
    """A command that trains the runs of a role, and does no more."""

    @takes()
    def command(
        recipe: RecipeArg,
        data: DataOpt,
        settings: Settings,
        overrides: Overrides = None,
        find_lr: FindLrOpt = False,
    ) -> None:
        do_stages((role,), recipe, data, settings, overrides, find_lr)

    return command


app.command("run")(run_command)
app.command("teacher", help="Train the recipe's teachers.")(role_command("teacher"))
app.command("student", help="Train the recipe's students, taught by the teachers in --out.")(
    role_command("student")
)
app.command("check")(check_command)
app.command("teachers")(teachers_command)
app.command("search")(search_command)
app.command("options")(options_command)


@takes("device", "workers", "dry_run", "as_json")
def report_command(
    experiment: ExperimentArg, settings: Settings, overrides: Overrides = None
) -> None:
    """Read the test split once and print the table."""
    opened = stages.reopen_experiment(experiment, overrides, settings)
    stages.run_stages(opened, ("report",), settings.dry_run, settings.as_json)


app.command("report")(report_command)
app.command("export")(export_command)
app.command("inspect")(inspect_command)
app.add_typer(bench_app, name="bench")
app.add_typer(cache_app, name="cache")


@app.command("evaluate")
@takes("device", "workers", "as_json")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="ONNX file, experiment or run directory.")],
    data: Annotated[str, typer.Argument(help="Folder of class folders, or demo.")],
    settings: Settings,
    split: Annotated[str | None, typer.Option("--split", help="train, val or test.")] = None,
) -> None:
    """Score a model on labelled images, with the thresholds that its file has."""
    from distill.pipeline.evaluate import evaluate
    from distill.report.results import Caution
    from distill.report.table import confusion_table, label_table, scores_line, show

    scores = evaluate(model, data, split, settings.device, settings.workers, Progress())
    show(confusion_table(scores) if "confusion" in scores else label_table(scores))
    print(f"{scores['model']}: {scores_line(scores)}")
    for warning in scores["warnings"]:
        print(Caution(**warning))
    for path, reason in scores["unreadable"].items():
        print(f"left out, unreadable: {path}: {reason}", file=sys.stderr)
    stages.emit(scores, settings.as_json)


@app.command("predict")
def predict_command(
    model: Annotated[Path, typer.Argument(help="A shipped ONNX file, or an experiment.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    as_json: JsonOpt = False,
) -> None:
    """Label pictures with a shipped file; needs no torch."""
    from distill.runtime.predict import Predictor, UnreadableImageError, find_images

    predictor, paths = Predictor(model), find_images(images, Progress().say)
    if predictor.path != model:
        print(f"answers of {predictor.path}", file=sys.stderr)
    failed = 0
    for path in paths:
        try:
            prediction = predictor.predict(path)[0]
        except UnreadableImageError as error:
            problem = UserError(f"not readable, {error}", str(path))
            if len(paths) == 1:
                raise problem from None
            failed += 1
            say_error(problem)
            continue
        if as_json:
            print(json.dumps(prediction.__dict__, ensure_ascii=False))
        else:
            print(f"{path}: {prediction}")
    if failed:
        raise UserError(f"{failed} of {len(paths)} pictures could not be read")


def check_processes(command: str) -> None:
    """Lets several processes into those commands only that they can share the work of.

    Raises:
        UserError: A launcher such as `torchrun` started several for another command.
    """
    if num_processes() > 1 and command not in SHARED:
        what = f"{num_processes()} processes cannot share `distill {command}`"
        raise UserError(what, "torchrun", f"start it alone; they can share {', '.join(SHARED)}")


def say_error(error: DistillError) -> None:
    """The one line of a failure."""
    print(f"error: {error}", file=sys.stderr)


def fail(error: DistillError) -> NoReturn:
    """Ends the program with its line and its exit status."""
    say_error(error)
    sys.exit(error.exit_code)


def main() -> None:
    """Entry point of `distill`: failures become one line and an exit status."""
    try:
        check_processes(" ".join(sys.argv[1 : 3 if sys.argv[1:2] == ["cache"] else 2]))
        # Newer typers turn Ctrl-C into the status 130, older ones into Abort.
        interrupted = app(prog_name="distill", standalone_mode=False) == INTERRUPTED
    except typer.Abort:
        interrupted = True
    except UsageProblem as error:
        if problem := usage_error(error, sys.argv[1:]):
            fail(problem)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            raise
        fail(UserError(f"this command needs {error.name}", hint="pip install 'distillate[all]'"))
    except PATH_ERRORS as error:
        hint = "correct its permissions or name another path"
        fail(UserError(str(error.strerror), error.filename and str(error.filename), hint))
    except DistillError as error:
        fail(error)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        fail(no_space(error.filename))
    if interrupted:
        print("interrupted: repeat the command to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)
