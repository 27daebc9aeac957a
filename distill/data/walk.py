"""Files below a folder, as everything that lists pictures finds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from distill.errors import UserError
from distill.storage import is_remote, reached

# Of systems, network drives and archives; what is hidden begins with a dot and needs no name here.
SYSTEM = frozenset(
    (
        *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("@eadir", "@recycle", "#recycle", "#snapshot", "lost+found", "__macosx", "__pycache__"),
        *("@tmp", "@recently-snapshot", "~snapshot", "recycler"),
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
    return sorted(path for kind, path in _listed(folder) if kind == "folder")


def files_in(folder: Path) -> list[Path]:
    """The files that a folder lists itself, sorted.

    Raises:
        UserError: It may not be listed.
    """
    return sorted(path for kind, path in _listed(folder) if kind == "file")


def files_below(folder: Path) -> list[Path]:
    """Regular files below a folder, and links that lead nowhere, sorted.

    Links to folders are followed, but for those to a folder that this one lies in; a folder that
    can be reached in several ways is listed once.

    Raises:
        UserError: A folder may not be listed; what is in it would be missed without a word.
    """
    if is_remote(folder):
        return sorted(_files_below_address(folder))
    found, left, seen = list[Path](), [folder], set[tuple[int, int]]()
    for above in folder.resolve().parents:
        status = above.stat()
        seen.add((status.st_dev, status.st_ino))
    while left:
        place = left.pop(0)
        status = place.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for kind, path in _listed(place):
            if kind == "folder":
                left.append(path)
            elif kind == "file":
                found.append(path)
    return sorted(found)


def _files_below_address(folder: Path) -> Iterator[Path]:
    for kind, path in _listed(folder):
        if kind == "folder":
            yield from _files_below_address(path)
        else:
            yield path


def _listed(folder: Path) -> list[tuple[str, Path]]:
    """What a folder lists, by kind, but for litter; folders proper come before links to folders."""
    if is_remote(folder):
        return _listed_at_address(folder)
    try:
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if not is_litter(entry.name)]
    except OSError as error:
        hint = "correct its permissions, or take it out"
        raise UserError(f"cannot be listed: {error.strerror}", str(folder), hint) from None
    kept.sort(key=lambda entry: (entry.is_symlink(), entry.name))
    return [(_kind(entry), Path(entry.path)) for entry in kept]


def _listed_at_address(folder: Path) -> list[tuple[str, Path]]:
    with reached(folder):
        system, path = cast(Any, folder).fs, cast(Any, folder).path.rstrip("/")
        entries = [(e["name"].rstrip("/"), e["type"]) for e in system.ls(path, detail=True)]
    inside = (pair for pair in sorted(entries) if pair[0].strip("/") != path.strip("/"))
    named = ((name.rpartition("/")[2], kind) for name, kind in inside)
    kinds = {"directory": "folder", "file": "file"}
    return [(kinds.get(k, "other"), folder / name) for name, k in named if not is_litter(name)]


def _kind(entry: os.DirEntry[str]) -> str:
    """`folder`, `file` (a link that leads nowhere is one, too) or `other`."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        leads_nowhere = entry.is_symlink() and not Path(entry.path).exists()
    except OSError:  # a link to itself
        leads_nowhere = entry.is_symlink()
    return "file" if leads_nowhere else "other"
