"""The command line: every command, its options, and how failures end.

Results go to stdout, progress and errors to stderr. Exit status: 0 success, 2 a mistake of the
user's, 3 a run that could not finish, 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from distill import __version__
from distill.cli import INTERRUPTED
from distill.cli.ablate import ablate_command
from distill.cli.advice import say_error, usage_error
from distill.cli.bench import bench_app
from distill.cli.cache import cache_app
from distill.cli.check import check_command
from distill.cli.compare import compare_command
from distill.cli.export import ExportHelp, export_command
from distill.cli.options import (
    DataOpt,
    ExperimentArg,
    FindLrOpt,
    Overrides,
    RecipeArg,
    examples,
    takes,
    worked_on,
)
from distill.cli.reference import options_command
from distill.cli.run import do_stages, run_command
from distill.cli.search import search_command
from distill.cli.serve import serve_command
from distill.cli.shipped import evaluate_command, inspect_command, predict_command
from distill.cli.sweep import sweep_command
from distill.cli.teachers import teachers_command
from distill.cli.watch import watch_command
from distill.environment import is_main_process, num_processes
from distill.errors import (
    DistillError,
    RunStopped,
    UserError,
    first_line,
    install_command,
    is_short_of_memory,
    printable,
)
from distill.files import NO_SPACE, no_space
from distill.mirror import publish
from distill.pipeline import opening, stages
from distill.pipeline.opening import Settings

app = typer.Typer(
    name="distill",
    epilog=examples("run photos/", "predict runs/mine picture.jpg"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PIPELINE, STAGES = "The pipeline", "Its stages"  # groups of commands in the help
SHIPPED, TOOLS = "The shipped file", "Tools"
SHARED = ("run", "teacher", "student", "cache build")  # commands that several processes may share
TRAINING_PACKAGES = (
    *("torch", "torchvision", "timm", "onnx", "onnxscript", "sklearn"),
    *("safetensors", "matplotlib", "pyarrow"),
)
# What is wrong with a path of the user's, and what to do; other errors of the system stop a run.
PATH_ERRORS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "correct its permissions or name another path"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "name another path"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ), "name a shorter, plain path"),
    errno.ELOOP: "mend the links in it",
    errno.EROFS: "name a path on a disk that can be written to",
}
SYSTEM_ERRORS = {
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.EFBIG: "allow larger files: ulimit -f unlimited, or another file system",
}
NOBODY = (
    "home directory",
    "getpwuid",
)  # of what Python says to users whom the system does not know
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


app.command(
    "run",
    rich_help_panel=PIPELINE,
    epilog=examples("run photos/ --minutes 10", "run mine.toml --data photos/ --out runs/mine"),
)(run_command)
app.command(
    "check",
    rich_help_panel=STAGES,
    epilog=examples("check photos/ --out checked", "check photos/ --split grouped --out anew"),
)(check_command)
for role, does in (
    ("teacher", "Train the recipe's teachers."),
    ("student", "Train the recipe's students, taught by the teachers in --out."),
):
    app.command(
        role,
        help=does,
        rich_help_panel=STAGES,
        epilog=examples(
            f"{role} mine.toml --data photos/ --out runs/mine",
            f"{role} mine.toml --data photos/ --find-lr {role}.train.epochs=5",
        ),
    )(role_command(role))
app.command(
    "export",
    cls=ExportHelp,
    rich_help_panel=STAGES,
    epilog=examples("export runs/mine", "export runs/mine --target triton --target web"),
)(export_command)


@app.command(
    "report",
    rich_help_panel=STAGES,
    epilog=examples("report runs/mine", "report runs/mine --also elsewhere/"),
)
@takes("device", "workers", "also", "data", "trust", "dry_run", "as_json")
def report_command(
    experiment: ExperimentArg, settings: Settings, overrides: Overrides = None
) -> None:
    """Read the test split once and print the table."""
    opened = opening.reopen_experiment(experiment, overrides, settings)
    stages.run_stages(opened, ("report",), settings.dry_run, settings.as_json)


app.command(
    "evaluate",
    rich_help_panel=SHIPPED,
    epilog=examples("evaluate runs/mine photos/", "evaluate student.int8.onnx photos/ --split val"),
)(evaluate_command)
app.command(
    "predict",
    rich_help_panel=SHIPPED,
    epilog=examples(
        "predict runs/mine picture.jpg", "predict student.int8.onnx pictures/ --faces --json"
    ),
)(predict_command)
app.command(
    "watch",
    rich_help_panel=SHIPPED,
    epilog=examples(
        "watch 0 runs/mine", "watch street.mp4 student.int8.onnx --out labelled.mp4 --json"
    ),
)(watch_command)
app.command(
    "serve",
    rich_help_panel=SHIPPED,
    epilog=examples(
        "serve student.int8.onnx",
        "serve runs/mine masks=masks.int8.onnx --workers 4 --token-file token",
    ),
)(serve_command)
app.command(
    "inspect",
    rich_help_panel=SHIPPED,
    epilog=examples("inspect student.int8.onnx", "inspect student.int8.onnx --json"),
)(inspect_command)
app.add_typer(bench_app, name="bench", rich_help_panel=SHIPPED)
app.command(
    "teachers",
    rich_help_panel=TOOLS,
    epilog=examples(
        "teachers photos/",
        "teachers photos/ --teacher timm/resnet50 --teacher timm/resnet18",
    ),
)(teachers_command)
app.command(
    "compare",
    rich_help_panel=TOOLS,
    epilog=examples(
        "compare runs/mine/students/plain runs/mine/students/distilled",
        "compare runs/a/students/small runs/b/students/small --margin 1",
    ),
)(compare_command)
app.command(
    "ablate",
    rich_help_panel=TOOLS,
    epilog=examples(
        "ablate mine.toml --data photos/ --dry-run",
        "ablate mine.toml --data photos/ --vary temperature=1,8 --seeds 3",
    ),
)(ablate_command)
app.command(
    "sweep",
    rich_help_panel=TOOLS,
    epilog=examples(
        "sweep mine.toml --data photos/ train.lr=1e-4..1e-2 --trials 20",
        "sweep mine.toml --data photos/ train.lr=1e-3,3e-3",
    ),
)(sweep_command)
app.command(
    "search",
    rich_help_panel=TOOLS,
    epilog=examples(
        "search students/compact_masks.toml --data photos/ --max-latency-ms 0.1",
        "search mine.toml --data photos/ --max-size-kb 400 --dry-run",
    ),
)(search_command)
app.add_typer(cache_app, name="cache", rich_help_panel=TOOLS)
app.command(
    "options",
    rich_help_panel=TOOLS,
    epilog=examples("options student.train.lr", "options views"),
)(options_command)


def check_processes(command: str) -> None:
    """Refuses several processes for commands whose work they cannot share.

    Raises:
        UserError: A launcher such as `torchrun` started several for another command.
    """
    if num_processes() > 1 and command not in SHARED:
        what = f"{num_processes()} processes cannot share `distill {command}`"
        raise UserError(what, "torchrun", f"start it alone; they can share {', '.join(SHARED)}")


def fail(error: DistillError) -> NoReturn:
    """Ends the program with its line and its exit status, after what may explain it."""
    if findings := getattr(error, "findings", ()):
        from distill.report.table import finding_lines

        for line in finding_lines(findings, most=3):
            print(printable(line), file=sys.stderr)
    say_error(error)
    sys.exit(error.exit_code)


def of_system(error: ImportError | MemoryError | OSError) -> DistillError:
    """What the interpreter or the system could not do, as one line.

    Raises:
        ImportError: A module of ours is missing, or one that nobody has to install.
    """
    if isinstance(error, MemoryError):
        return RunStopped("out of memory", hint="lower train.batch_size, data.size or --workers")
    if isinstance(error, ModuleNotFoundError):
        if error.name not in TRAINING_PACKAGES:
            raise error
        return UserError(f"this command needs {error.name}", hint=install_command("all"))
    if isinstance(error, ImportError):
        if not (package := _package_of(error)):
            raise error
        what = f"{package} cannot be loaded ({first_line(error)})"
        return RunStopped(what, hint="give it more memory, or install it anew")
    if error.errno in NO_SPACE:
        return no_space(error.filename)
    what, where = str(error.strerror or error), str(error.filename) if error.filename else None
    if hint := PATH_ERRORS.get(error.errno or 0):
        return UserError(what, where, hint)
    return RunStopped(what, where, SYSTEM_ERRORS.get(error.errno or 0, "repeat the command"))


def _package_of(error: BaseException) -> str:
    """The package in whose files an error was raised first, of those that are installed."""
    for frame in traceback.extract_tb(error.__traceback__)[::-1]:
        _, installed, inside = frame.filename.partition("site-packages/")
        if installed:
            return Path(inside).parts[0]
    return ""


def start() -> None:
    """Does what the command line says; failures become one line and an exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # ours is higher
    for stream in (sys.stdout, sys.stderr):  # where é cannot be written, it is an escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        check_processes(" ".join(sys.argv[1 : 3 if sys.argv[1:2] == ["cache"] else 2]))
        # Newer typers turn Ctrl-C into the status 130, older ones into Abort.
        try:
            interrupted = app(prog_name="distill", standalone_mode=False) == INTERRUPTED
        finally:
            for folder in worked_on if is_main_process() else ():
                publish(folder)
    except typer.Abort as error:
        if isinstance(error.__cause__, EOFError):  # which is a damaged file, not Ctrl-C
            raise error.__cause__ from None
        interrupted = True
    except UsageProblem as error:
        if problem := usage_error(error, sys.argv[1:]):
            fail(problem)
        sys.exit(2)
    except DistillError as error:
        fail(error)
    except (ImportError, MemoryError, OSError) as error:
        fail(of_system(error))
    except (RuntimeError, KeyError) as error:
        if any(words in str(error) for words in NOBODY):
            hint = "set HOME to a folder that can be written to, and USER to any name"
            fail(UserError("this user has no home folder, or no name", hint=hint))
        if not is_short_of_memory(error):
            raise
        fail(of_system(MemoryError()))
    if interrupted:
        raise KeyboardInterrupt
