"""Class folders: `root/class/*.jpg`, or `root/train|val|test/class/*.jpg`."""

from __future__ import annotations

import hashlib
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from distill.data.decode import heif_left_out, image_endings, read_file
from distill.data.sources import SPLIT_NAMES, SPLITS, Item, Source
from distill.data.walk import files_below, files_in, folders_in
from distill.errors import UserError
from distill.storage import is_remote, locate, stamp


def open_source(location: str) -> Source:
    """Lists the images below a folder; classes are the sorted names of the class folders."""
    root = locate(location)
    if not root.is_dir():
        hint = "name a folder with one sub-folder per class, or demo"
        raise UserError("no such folder" if not root.exists() else "not a folder", location, hint)
    folders = folders_in(root)
    splits = {SPLIT_NAMES[f.name.lower()]: f for f in folders if f.name.lower() in SPLIT_NAMES}
    groups: dict[str | None, Path] = {name: splits[name] for name in SPLITS if name in splits}
    if splits:
        _check_layout(root, folders, splits)
    else:
        groups = {None: root}
    found = {split: _class_folders(group) for split, group in groups.items()}
    classes = _class_names(root, found)
    places = [
        (folder, label, split)
        for split, named in found.items()
        for label, name in enumerate(classes)
        for folder in named.get(name, ())
    ]
    around = dict.fromkeys((root, *groups.values()))
    notes = tuple(chain.from_iterable(_left_out(root, place) for place in around))
    return replace(_listing(root, places, classes), notes=notes)


def open_unlabelled(location: str) -> Source:
    """Lists all images below a folder, however they lie in it; their label is -1."""
    root = locate(location)
    if not root.is_dir():
        raise UserError("no such folder of unlabelled images", location, "name a folder of images")
    return _listing(root, [(root, -1, None)], ())


def _listing(
    root: Path, places: list[tuple[Path, int, str | None]], classes: tuple[str, ...]
) -> Source:
    """The images of (folder, label, split) triples; links that lead nowhere are unreadable ones."""
    items, ignored, digest = [], [], hashlib.sha256()
    endings = image_endings()
    for folder, label, split in places:
        for file in files_below(folder):
            relative = file.relative_to(root).as_posix()
            _check_unicode(root, relative)
            if file.suffix.lower() not in endings:
                ignored.append(relative)
                continue
            items.append(Item(relative, label, split))
            known = stamp(file)
            digest.update(f"{relative}\0{known.size}\0{known.version}\n".encode())
    if not items:
        hint = f"name one with pictures: {' '.join(sorted(endings))}"
        raise heif_left_out(ignored, str(root)) or UserError("no images", str(root), hint)
    return Source(
        location=str(root),
        classes=classes,
        items=tuple(items),
        read=lambda item: read_file(root / item.name),
        fingerprint=digest.hexdigest(),
        ignored=tuple(ignored),
        root=None if is_remote(root) else root,
    )


def _check_unicode(root: Path, relative: str) -> None:
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise UserError(f"{relative!r} is no valid Unicode", str(root), "rename it") from None


def _check_layout(root: Path, folders: list[Path], splits: dict[str, Path]) -> None:
    others = [f.name for f in folders if f.name.lower() not in SPLIT_NAMES]
    if others:
        what = f"split folders {sorted(splits)} and other folders {others[:3]} side by side"
        hint = "keep either splits or classes at the top"
        if list(splits) == ["train"]:
            hint += "; if train is a class, put all classes into a folder train"
        raise UserError(what, str(root), hint)
    if len(splits) != len(folders):
        raise UserError("two folders stand for the same split", str(root), "merge or rename one")


def _class_folders(group: Path) -> dict[str, list[Path]]:
    """Folders by the class that they name; names in several forms of Unicode are one."""
    named: dict[str, list[Path]] = {}
    for folder in folders_in(group):
        named.setdefault(unicodedata.normalize("NFC", folder.name), []).append(folder)
    return named


def _left_out(root: Path, group: Path) -> Iterator[str]:
    """What is to be said of pictures beside the class folders: nothing tells their class."""
    endings = image_endings()
    loose = [file for file in files_in(group) if file.suffix.lower() in endings]
    if not loose:
        return
    place = group.relative_to(root.parent).as_posix()
    some = f"{len(loose):,} pictures, such as {loose[0].name}"
    if folders_in(group):
        yield f"{place} has {some}, beside its class folders: they are left out"
    else:
        use = (
            f"label them by `distill predict`, or train with --unlabelled {shlex.quote(str(group))}"
        )
        yield f"{place} has {some}, and no class folders: it is left out; {use}"


def _class_names(root: Path, found: dict[str | None, dict[str, list[Path]]]) -> tuple[str, ...]:
    classes = tuple(sorted(set(chain.from_iterable(found.values()))))
    if not classes:
        raise UserError("no class folders", str(root), "put the images of a class in its folder")
    return classes
