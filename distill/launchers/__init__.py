"""Launchers, one file each, found by name: they start workers that share what is to be done.

A worker is a command of ours that claims its work piece by piece (`teaching.claims`), so that a
launcher has nothing to divide, and nothing to do when a worker dies: it starts commands here, or
writes the file that a scheduler starts them from. A launcher is a frozen model whose fields are
its options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import Options
from distill.overrides import set_option
from distill.registry import check_options, find_module
from distill.storage import is_address

if TYPE_CHECKING:
    from distill.pipeline.experiment import Experiment

FOLDER = "launchers"


@dataclass(frozen=True)
class Work:
    """What every worker does.

    Attributes:
        arguments: Of `distill`: `cache build RECIPE`, overrides, and options from `--data` on;
            places mean the same in every folder.
        workers: How many there are to be.
        folder: Where a launcher may keep its files and logs.
        name: What schedulers may call it: letters, digits and `-`.
        say: Is told a line.
        open: Opens the experiment, in any process.
    """

    arguments: tuple[str, ...]
    workers: int
    folder: Path
    name: str
    say: Callable[[str], None]
    open: Callable[[], Experiment]


def absolute(place: str) -> str:
    """A place as it is named from every folder; addresses, and names of what is no file, are so."""
    is_here = bool(place) and not is_address(place) and Path(place).exists()
    return str(Path(place).resolve()) if is_here else place


class Launcher(Options):
    """Base of all launchers."""

    def check(self, work: Work) -> None:
        """Raises `UserError` for what its workers cannot do, before anything is written."""

    def launch(self, work: Work) -> None:
        """Starts the workers and waits for them, or writes a file and says how it is submitted.

        Raises:
            UserError: Something that it needs is missing.
            RunStopped: No worker came to the end.
        """
        raise NotImplementedError


def make_launcher(name: str, options: list[str]) -> Launcher:
    """The launcher of a name or of a dotted module.

    Args:
        options: `key=value`, values as TOML.

    Raises:
        UserError: There is no such launcher, or it has no such option.
    """
    declared = find_module(FOLDER, name, "--launcher", "Launcher").Launcher
    table: dict[str, Any] = {}
    for option in options:
        set_option(table, option)
    launcher: Launcher = check_options(declared, table, f"launcher {name!r}")
    return launcher
