"""Export targets, one file each, found by name; the other files here are what they share.

A target is a frozen model whose fields are its options. It writes its files into a folder of its
own, and says what it found when it ran them; the stage moves them into place. `onnx_fp32` is made
first: it is the verified reference that the others start from and are held against.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from distill.config import ExportConfig, Options, PluginConfig
from distill.registry import check_options, find_module

if TYPE_CHECKING:
    from distill.export.shipment import Shipment

REFERENCE = "onnx_fp32"
Record = dict[str, Any]


class Target(Options):
    """Base of all targets.

    Attributes:
        packs: It takes the ONNX files of other targets, and so is made after them.
    """

    packs: ClassVar[bool] = False

    def check(self) -> None:
        """Looks whether it can be made on this machine.

        Raises:
            UserError: It lacks something, and what to install.
        """

    def make(self, shipment: Shipment, folder: Path) -> Record:
        """Writes the files, runs them on the whole validation split, and says a line about it.

        Args:
            folder: Empty, and thrown away unless this returns.

        Returns:
            What is known, as JSON: under `files` by relative path what was measured of each, and
            whatever else tells how it was made. A target that declines to publish a file says
            why.

        Raises:
            RunStopped: A file disagrees with the reference; it names the path that was tried.
        """
        raise NotImplementedError


def make_targets(config: ExportConfig) -> dict[str, Target]:
    """The targets of a recipe by name, in the order in which they are made.

    Raises:
        UserError: No such target, an option that it does not have, or it cannot be made here.
    """
    named = {target.name: target for target in (PluginConfig(name=REFERENCE), *config.targets)}
    targets: dict[str, Target] = {}
    for name, target in named.items():
        declared = find_module("export", name, "export.targets", "Target").Target
        targets[name] = check_options(declared, target.options, f"target {name!r}")
        targets[name].check()
    return dict(sorted(targets.items(), key=lambda item: item[1].packs))
