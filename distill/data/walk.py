"""Files below a folder, as everything that lists pictures finds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from distill.errors import UserError

# Of systems, network drives and archives; what is hidden begins with a dot and needs no name here.
SYSTEM = frozenset(
    (
        *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("@eadir", "@recycle", "#recycle", "#snapshot", "lost+found", "__macosx", "__pycache__"),
    )
)


def is_litter(name: str) -> bool:
    """Whether a file or folder is nothing that a person put there."""
    return name.startswith(".") or name.lower() in SYSTEM


def folders_in(folder: Path) -> list[Path]:
    """The folders that a folder lists, links to folders among them, sorted.

    Raises:
        UserError: It may not be listed.
    """
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_dir())


def files_below(folder: Path) -> list[Path]:
    """Regular files below a folder, and links that lead nowhere, sorted.

    Links to folders are followed, but not in circles.

    Raises:
        UserError: A folder may not be listed; what is in it would be missed without a word.
    """
    return sorted(_walk(folder, ()))


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    found = folder.stat()
    own = (found.st_dev, found.st_ino)
    if own in above:
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path), (*above, own))
        elif entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_litter(entry.name)]
    except OSError as error:
        hint = "correct its permissions, or take it out"
        raise UserError(f"cannot be listed: {error.strerror}", str(folder), hint) from None
