"""`distill options`: what there is to set, and what it means."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from distill.cli.options import JsonOpt
from distill.pipeline import stages


def options_command(
    key: Annotated[
        str | None, typer.Argument(help="An option or a group, such as student.train.lr or views.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All of them, as docs/options.md.")
    ] = False,
    as_json: JsonOpt = False,
) -> None:
    """Print what an option means, its values and its default; without a key, all of them."""
    from distill.report import options

    if markdown:
        print(options.options_page(), end="")
        return
    if key:
        selected = options.find_options(key)
    else:
        selected = [*options.recipe_options(), *options.plugin_options()]
    for line in options.option_lines(selected):
        print(line)
    stages.emit({"options": [asdict(option) for option in selected]}, as_json)
