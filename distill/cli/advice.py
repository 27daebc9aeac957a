"""What to do about a command line that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

MEANT = {  # what other tools call a command
    **dict.fromkeys(("train", "fit", "distill", "distil"), "run"),
    **dict.fromkeys(("test", "eval", "score"), "evaluate"),
    **dict.fromkeys(("infer", "classify"), "predict"),
    **dict.fromkeys(("benchmark", "speed", "time"), "bench"),
    **dict.fromkeys(("audit", "validate", "data"), "check"),
}


def advice(error: Any, arguments: Sequence[str]) -> str:
    """The next step after a usage error.

    A flag that a recipe has as an option is answered with that option (`--epochs 3` by
    `student.train.epochs=3`), another tool's name of a command with ours.

    Args:
        error: A `UsageError` of click's, or of the one that typer brings along.
        arguments: The command line, without the program's name.
    """
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "distill"
    flag = getattr(error, "option_name", "")
    if flag and context and "KEY=VALUE" in context.get_usage():
        from distill.report.options import alike, recipe_options

        name = flag.strip("-").replace("-", "_")
        keys = alike(name, recipe_options())
        if error.possibilities:  # flags that are alike, however little
            keys = [key for key in keys if key.rpartition(".")[2] == name]
        words = [part for argument in arguments for part in argument.split("=", 1)]
        value = dict(pairwise(words)).get(flag, "VALUE")
        if keys:
            return f"did you mean {' or '.join(f'{key}={value}' for key in keys)}?"
    if command == "distill" and not flag and arguments[:1] and arguments[0] in MEANT:
        return f"did you mean {MEANT[arguments[0]]!r}?"
    return f"see {command} --help"
