"""What sources of files that hold many images each have in common: their splits and classes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distill.data.sources import SPLIT_NAMES, SPLITS
from distill.errors import UserError
from distill.storage import locate, read_place, stamp


def splits_of_files(files: Sequence[Path], location: str) -> list[str | None]:
    """The split that the name of each file, or of its folder, begins with: all have one, or none.

    Raises:
        UserError: Files with and without a split side by side.
    """
    splits = [
        _split(file.name)
        or (None if file.parent == locate(location) else SPLIT_NAMES.get(file.parent.name.lower()))
        for file in files
    ]
    if any(splits) and not all(splits):
        what = f"{files[splits.index(None)].name} is of no split, other files are"
        raise UserError(what, location, "begin its name with train, val or test, or move it away")
    return splits


def _split(name: str) -> str | None:
    word = re.match("[a-z]*", name.lower())
    return SPLIT_NAMES.get(word.group()) if word else None


def place_of(split: str | None) -> int:
    """Where a split comes in a listing."""
    return SPLITS.index(split) if split else 0


def listed_classes(folder: Path) -> tuple[tuple[str, ...], Path]:
    """The lines of `classes.txt` in a folder, none if it has no such file, and its path."""
    file = folder / "classes.txt"
    if not file.is_file():
        return (), file
    try:
        lines = read_place(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError("not UTF-8", str(file), "save it as UTF-8") from None
    return tuple(line.strip() for line in lines if line.strip()), file


def index_classes(
    names: Sequence[str], values: Iterable[Any], place: Path
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Class names, and the class index of every value that a label may have.

    Args:
        names: Class names, if they are known: a label is one of them, or its number.
        values: Otherwise, all labels: numbers or names; sorted, they are the classes.
        place: What gives the names, for messages.

    Raises:
        UserError: A class named twice, or none at all.
    """
    index: dict[Any, int] = {name: position for position, name in enumerate(names)}
    index |= {position: position for position in range(len(names))}
    if not names:
        ordered = sorted(set(values), key=lambda value: (isinstance(value, str), value))
        names = [str(value) for value in ordered]
        index = {value: position for position, value in enumerate(ordered)}
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"class {twice!r} is named twice", str(place), "name each class once")
    if not names:
        raise UserError("no rows", str(place), "add images")
    return tuple(names), index


def files_fingerprint(classes: Sequence[str], root: Path, files: Iterable[Path]) -> str:
    """Hash of class names and of the files' names, sizes and times."""
    digest = hashlib.sha256(json.dumps(classes).encode())
    for file in files:
        known, name = stamp(file), file.relative_to(root).as_posix()
        digest.update(f"{name}\0{known.size}\0{known.version}\n".encode())
    return digest.hexdigest()
