"""Manifests: tables (CSV, Parquet, JSON lines) that list images with their labels.

`FILE.csv`, `FILE.jsonl`, `FILE.parquet` if it holds paths rather than pictures, or a folder with
one of `labels.csv`, `manifest.csv` and `manifest.parquet`, or with `metadata.csv`, `metadata.jsonl`
or `metadata.parquet` as on the Hugging Face Hub, in the folder or in those of its splits. Columns
are `path`, `label` and, if wanted, `split`, `group` and `sha256`; others are passed over. Several
labels of an image are joined by `;`, an image without any has an empty cell, and either makes the
source a multi-label one.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

from distill.buckets import Bucket
from distill.config import TaskName
from distill.data.decode import EXTENSIONS, image_endings, read_file
from distill.data.sources import SPLIT_NAMES, SPLITS, Item, Source
from distill.data.sources._manifest import FILE, HUB_NAMES, Entry, Table, parse
from distill.data.sources._tables import (
    JSON_LINES,
    PARQUET,
    lists_labels,
    lists_paths,
    read_table,
)
from distill.data.walk import files_below, folders_in
from distill.errors import UserError
from distill.files import sha256_of
from distill.storage import Stamp, is_remote, locate, read_place

NAMES = ("labels.csv", "manifest.csv", FILE)
# folders beside a manifest that pictures are looked for in
IMAGES = ("images", "train", "train_images")
SHOWN = 3  # rows that a message names where many are wrong


def recognises(location: str) -> bool:
    """Whether a location is a CSV file, a Parquet file of paths, or a folder with a manifest."""
    path = locate(location)
    if path.is_dir():
        return bool(_manifests(path) or _hub_manifests(path))
    if path.suffix.lower() in (".csv", JSON_LINES):
        return True
    return path.suffix == PARQUET and lists_paths(path)


def open_source(location: str) -> Source:
    """Lists the rows of a manifest, in their order; classes are the sorted labels.

    Paths are relative to the manifest's folder, or to the root that the manifest names, and do not
    lead out of it (links may); without such a root, a file that is not there is looked for in the
    sub-folders `images` and `train`. A name without an ending may be a picture's that has one. If
    there is a column `sha256`, every file with a hash is read once at every opening to compare it:
    about as long as copying the data takes.

    Raises:
        UserError: Names the row of what is wrong: no such file, a path listed twice or leading
            out, another hash, a label in two spellings, one class, an unknown split.
    """
    return _open(location, labelled=True)


def open_unlabelled(location: str) -> Source:
    """Lists the images of a manifest, with or without labels; their label is -1."""
    return _open(location, labelled=False)


def _open(location: str, labelled: bool) -> Source:
    table = _table(location, labelled)
    if table.source is not None:
        what = f"it keeps the splits of {table.source}, whose images are no files"
        raise UserError(what, str(table.file), f"name {table.source} itself")
    root = _root(table)
    entries = parse(table, root)
    names, stamps = _find_files(table, root, entries)
    _check_hashes(table, entries, [root / name for name in names])
    classes = _classes(table, entries) if labelled else ()
    multi = labelled and any(len(entry.labels) != 1 for entry in entries)
    task: TaskName = "multi" if multi else "single"
    index = {name: position for position, name in enumerate(classes)}
    items, digest = [], hashlib.sha256(repr(classes).encode())
    for entry, name, known in zip(entries, names, stamps, strict=True):
        labels = tuple(sorted(index[label] for label in entry.labels)) if labelled else (-1,)
        items.append(Item(name, labels if multi else labels[0], entry.split, entry.group))
        row = (name, labels, entry.split, entry.group, known.size, known.version)
        digest.update(f"{row}\n".encode())
    is_far = is_remote(root)
    return Source(
        location=location,
        classes=classes,
        items=tuple(items),
        read=lambda item: read_file(root / item.name),
        fingerprint=digest.hexdigest(),
        task=task,
        root=None if is_far else root,
        notes=(*table.notes, *(() if is_far else _unlisted(Path(location), root, names))),
    )


def _unlisted(folder: Path, root: Path, names: Sequence[str]) -> Iterator[str]:
    """What to say of pictures in a folder that its table does not speak of."""
    if not folder.is_dir():
        return
    listed, endings = {(root / name).resolve() for name in names}, image_endings()
    below = (file for file in files_below(folder) if file.suffix.lower() in endings)
    left = [file for file in below if file.resolve() not in listed]
    if left:
        some = left[0].relative_to(folder).as_posix()
        yield f"{len(left):,} pictures, such as {some}, are not in its table: they are left out"


def _manifests(folder: Path) -> list[Path]:
    files = [folder / name for name in NAMES if (folder / name).is_file()]
    return [file for file in files if file.suffix != PARQUET or lists_paths(file)]


def _hub_manifests(folder: Path) -> list[Path]:
    """The files that list the images of a folder as on the Hub: its own, or one for each split.

    Others of that name, such as those of cameras, have no labels.
    """
    splits = [place for place in folders_in(folder) if place.name.lower() in SPLIT_NAMES]
    splits.sort(key=lambda place: SPLITS.index(SPLIT_NAMES[place.name.lower()]))
    for places in ([folder], splits):
        files = (place / name for place in places for name in HUB_NAMES)
        if found := [file for file in files if file.is_file() and lists_labels(file)]:
            return found
    return []


def _table(location: str, labelled: bool) -> Table:
    path = locate(location)
    if not path.is_dir():
        if not path.is_file():
            raise UserError("no such manifest", location, "name a CSV or Parquet file")
        return read_table(path, labelled)
    files = _manifests(path)
    if not files and (parts := _hub_manifests(path)):
        if len({part.parent for part in parts}) == len(parts):
            table = _of_hub(path, [read_table(part, labelled) for part in parts])
            return _unlike_folders(table, path)
        files = parts
    if len(files) != 1:
        names = (file.relative_to(path).as_posix() for file in files)
        listed = " and ".join(names) or f"none of {', '.join(NAMES)}"
        raise UserError(f"{listed} in the folder", location, "name the manifest itself")
    return read_table(files[0], labelled)


def _unlike_folders(table: Table, folder: Path) -> Table:
    """The table, with a note where its pictures lie in folders that may seem to be classes."""
    paths = [Path(cell) for cell in table.cells("path")]
    inner = {path.parent.name for path in paths} - {"", *IMAGES}
    inner -= {name for name in inner if name.lower() in SPLIT_NAMES}
    if len(inner) < 2:
        return table
    note = f"labels are those of {table.file.relative_to(folder)}, not of folders such as "
    note += f"{min(inner)!r} that its pictures are in"
    return replace(table, notes=(*table.notes, note))


def _of_hub(folder: Path, tables: Sequence[Table]) -> Table:
    """One table of those of a folder, or of its splits; their folders tell the splits."""
    first = tables[0]
    if first.file.parent == folder:
        words = [cell.partition("/")[0] for cell in first.cells("path")]
        if "split" in first.columns or not all(word.lower() in SPLIT_NAMES for word in words):
            return first
        return replace(first, columns={**first.columns, "split": words})
    shared = [name for name in first.columns if all(name in table.columns for table in tables)]
    columns = {name: [cell for t in tables for cell in t.cells(name)] for name in shared}
    rows = [(table.file.parent.name, n) for table in tables for n in table.numbers]
    columns["path"] = [f"{of}/{cell}" for (of, _), cell in zip(rows, columns["path"], strict=True)]
    columns["split"] = [of for of, _ in rows]
    return Table(
        folder / "*" / first.file.name,
        columns,
        [f"{number} of {of}" for of, number in rows],
        first.unit,
        root="..",
        separator=first.separator,
        notes=tuple(note for table in tables for note in table.notes),
    )


def _root(table: Table) -> Path:
    """Folder that the paths are below."""
    folder = table.file.parent
    if table.root is None:
        return folder
    if is_remote(folder):
        protocol, _, place = str(folder / table.root).partition("://")
        return locate(f"{protocol}://{posixpath.normpath(place)}")
    # `..` is what it is to the system, also after a link.
    root = Path(os.path.realpath(folder / table.root))
    if not root.is_dir():
        what = f"its root {table.root!r} is no folder"
        raise UserError(what, str(table.file), f"correct its root, or put the images into {root}")
    return root


def _find_files(
    table: Table, root: Path, entries: Sequence[Entry]
) -> tuple[list[str], list[Stamp]]:
    """Paths below the root at which the files are, and their stamps."""
    listed = Bucket(str(root)).names() if is_remote(root) else None
    places = ("",) if table.root is not None else ("", *(f"{place}/" for place in IMAGES))
    plain, usual = sorted(image_endings()), ""
    endings = [*plain, *(ending.upper() for ending in plain)]
    names, stamps, missing = [], [], []
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        has_ending = Path(entry.name).suffix.lower() in EXTENSIONS
        tried = [""] if has_ending else [usual, "", *endings]
        for place, ending in product(places, tried):
            name = f"{place}{entry.name}{ending}"
            if known := _file_stamp(root / name) if listed is None else listed.get(name):
                usual = ending
                break
        else:
            missing.append(index)
            continue
        if first.setdefault(name, index) != index:
            what = f"{name!r} is already listed in {table.at(first[name])}"
            raise table.wrong(index, what, "list each image once")
        names.append(name)
        stamps.append(known)
    if missing:
        cells = table.cells("path")
        hint = f"paths are relative to {root}; correct them or remove the rows"
        if "\\" in cells[missing[0]]:
            hint = "write / instead of \\ in paths"
        raise UserError(_several(table, missing, "no such file"), str(table.file), hint)
    return names, stamps


def _file_stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _several(table: Table, rows: Sequence[int], what: str) -> str:
    """What is wrong with the first of many rows, and how many there are."""
    cells = table.cells("path")
    shown = ", ".join(f"{table.at(row)} {cells[row]!r}" for row in rows[:SHOWN])
    rest = f" and {len(rows) - SHOWN:,} more of {len(cells):,}" if len(rows) > SHOWN else ""
    return f"{what}: {shown}{rest}"


def _check_hashes(table: Table, entries: Sequence[Entry], files: Sequence[Path]) -> None:
    hashed = [index for index, entry in enumerate(entries) if entry.sha256]
    if not hashed:
        return
    try:
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(_sha256, (files[index] for index in hashed)))
    except OSError as error:
        what = f"cannot read: {error.strerror}"
        raise UserError(what, str(error.filename), "correct its permissions") from None
    pairs = zip(hashed, digests, strict=True)
    wrong = [index for index, digest in pairs if digest != entries[index].sha256]
    if wrong:
        hint = "fetch the files again, or correct the column sha256"
        raise UserError(_several(table, wrong, "another SHA-256"), str(table.file), hint)


def _sha256(file: Path) -> str:
    return hashlib.sha256(read_place(file)).hexdigest() if is_remote(file) else sha256_of(file)


def _classes(table: Table, entries: Sequence[Entry]) -> tuple[str, ...]:
    classes = tuple(sorted({label for entry in entries for label in entry.labels}))
    if not classes:
        raise UserError("no label in any row", str(table.file), "fill in the column of labels")
    return classes
