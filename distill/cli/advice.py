"""What is said of a failure, and what to do about a command line that cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from distill.errors import DistillError, UserError, alike, did_you_mean, printable

LONGEST = 1000  # characters of an error's line
MEANT = {  # what other tools call a command
    **dict.fromkeys(("train", "fit", "distill", "distil"), "run"),
    **dict.fromkeys(("test", "eval", "score"), "evaluate"),
    **dict.fromkeys(("infer", "classify"), "predict"),
    **dict.fromkeys(("benchmark", "speed", "time"), "bench"),
    **dict.fromkeys(("audit", "validate", "data"), "check"),
}


def say_error(error: DistillError) -> None:
    """The one line of a failure, of a length that somebody reads."""
    line = printable(error)
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"error: {line}", file=sys.stderr)


def usage_error(error: Any, arguments: Sequence[str]) -> UserError | None:
    """A usage error in our words; None where it says nothing, as its help was printed instead.

    A flag that a recipe has as an option is answered with that option (`--epochs 3` by
    `student.train.epochs=3`), another tool's name of a command with ours.

    Args:
        error: A `UsageError` of click's, or of the one that typer brings along.
        arguments: The command line, without the program's name.
    """
    flags = sorted(getattr(error, "possibilities", None) or ())
    what = (error.message if flags else error.format_message()).rstrip(".")
    if not what or what.endswith("?"):  # "Did you mean 'run'?" is an answer
        return UserError(what) if what else None
    return UserError(what, hint=_advice(error, arguments) or did_you_mean(flags) or _see(error))


def _see(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'distill'} --help"


def _advice(error: Any, arguments: Sequence[str]) -> str | None:
    """The option or command that somebody had in mind, if there is one."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "distill"
    flag = getattr(error, "option_name", "")
    if flag and context and "KEY=VALUE" in context.get_usage():
        from distill.report.options import recipe_options

        name = flag.strip("-").replace("-", "_")
        keys = alike(name, [option.key for option in recipe_options()])
        if error.possibilities:  # flags that are alike, however little
            keys = [key for key in keys if key.rpartition(".")[2] == name]
        words = [part for argument in arguments for part in argument.split("=", 1)]
        value = dict(pairwise(words)).get(flag, "VALUE")
        if keys:
            return did_you_mean([f"{key}={value}" for key in keys])
    if "--data" in getattr(getattr(error, "param", None), "opts", ()):
        return "name a recipe and add --data FOLDER; a folder alone is for distill run"
    if command == "distill" and not flag and arguments[:1] and arguments[0] in MEANT:
        return did_you_mean([repr(MEANT[arguments[0]])])
    return None
