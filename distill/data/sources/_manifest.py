"""Manifests, tables that list images: what their rows mean, and how one is written.

Which files hold such a table, and how its cells get out of them, is `sources/_tables.py`'s; what
is written here is first read as `sources/manifest.py` would, so that it can be read again.
"""

from __future__ import annotations

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from distill.data.sources import SPLIT_NAMES, Source
from distill.errors import UserError
from distill.files import atomic
from distill.storage import is_remote

# Our name of each column, first, and those that others give it.
COLUMNS = {
    "path": (
        *("path", "fname", "filename", "file", "file_name", "filepath", "file_path"),
        *("image", "img", "image_path", "image_file"),
    ),
    "label": ("label", "labels", "class", "tags"),
    "split": ("split",),
    "group": ("group",),
    "sha256": ("sha256",),
}
IDS = ("image_id", "img_id", "image_name", "name", "id")  # of the path, where no other column is it
FILE = "manifest.parquet"  # the manifest of a check or an experiment, in its directory
HUB_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of manifests on the Hub
SEPARATOR = ";"  # between the labels of an image, unless the file names another
SEPARATOR_MARK = "# separator:"  # begins a first line of a CSV that does
ROOT_MARK = "# root:"  # begins the first line of a CSV whose images lie in another folder
ROOT_KEY = b"root"  # the same in the metadata of a Parquet file
SOURCE_KEY = b"distillate.source"  # there: where images come from that are no files


@dataclass(frozen=True)
class Table:
    """Cells of the columns that matter, by our names of them.

    Attributes:
        numbers: Where each row is in the file, counted in `unit`s: lines or rows.
        root: Folder of the images, relative to the file's; None where the table names none.
        source: Location of the images, where these are no files and the table only keeps their
            splits; else None.
        separator: What stands between the labels of an image.
        notes: What whoever reads it should be told.
    """

    file: Path
    columns: dict[str, list[str]]
    numbers: Sequence[int | str]
    unit: str
    root: str | None = None
    source: str | None = None
    separator: str = SEPARATOR
    notes: tuple[str, ...] = ()

    def cells(self, column: str) -> list[str]:
        """A column; empty cells if there is none."""
        return self.columns.get(column) or [""] * len(self.numbers)

    def at(self, index: int) -> str:
        """Where a row is, for messages."""
        return f"{self.unit} {self.numbers[index]}"

    def wrong(self, index: int, what: str, hint: str) -> UserError:
        """An error in a row."""
        return UserError(f"{self.at(index)}: {what}", str(self.file), hint)


class Entry(NamedTuple):
    """A row as it is meant; `name` is the path below the root, with `/`."""

    name: str
    labels: tuple[str, ...]
    split: str | None
    group: str | None
    sha256: str | None


def parse(table: Table, root: Path) -> list[Entry]:
    """What the rows of a table mean; files are not looked at.

    Args:
        root: Folder that relative paths are below.

    Raises:
        UserError: A path that leads out of the root or is listed twice, a label in two spellings,
            an unknown split, splits in some rows only, or what cannot be a hash.
    """
    columns = (_names(table, root), _labels(table), _splits(table), _groups(table), _hashes(table))
    return [Entry(*row) for row in zip(*columns, strict=True)]


def rows_of(source: Source) -> list[dict[str, Any]]:
    """The rows that list a source's images, for `write_manifest` with `source.root`.

    Raises:
        UserError: Its images are no files of their own.
    """
    if source.root is None:
        what = "these images are no files of their own, so a manifest cannot list them"
        raise UserError(what, source.location, "use the source as it is")
    rows = []
    for item in source.items:
        label: Any = item.label
        if isinstance(label, tuple):
            label = tuple(source.classes[index] for index in label)
        else:
            label = None if label == -1 else source.classes[label]
        rows.append({"path": item.name, "label": label, "split": item.split, "group": item.group})
    return rows


def write_manifest(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    root: Path | None = None,
    source: str | None = None,
) -> None:
    """Writes a manifest, CSV or Parquet by its ending, atomically.

    Args:
        rows: `path` below `root`, `label` (a class name, or the sequence of all class names of an
            image) and, where known, `split`, `group`, `sha256`. None is an empty cell; a column
            of nothing else is left out, but for the labels of images that have none: `()`.
        root: Folder of the images, recorded relative to the manifest's; None: that folder itself.
        source: Location of images that are no files. A Parquet file records it, and then is no
            data, but a record.

    Raises:
        UserError: Another ending, or a row that would not be read again as it is.
        RunStopped: The disk is full.
    """
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise UserError("neither .csv nor .parquet", str(path), "choose one of these endings")
    table = _table(path, list(rows), _relative(root, path.parent) if root else None)
    table = replace(table, source=source)
    try:
        with atomic(path) as temporary:
            (_write_csv if ending == ".csv" else _write_parquet)(temporary, table)
    except UnicodeEncodeError as error:
        what = f"{error.object[:80]!r} is no valid Unicode"
        raise UserError(what, str(path), "rename the file") from None


def _names(table: Table, root: Path) -> list[str]:
    address = f"{root}/" if is_remote(root) else ""
    folder = Path(os.sep, address.partition("://")[2]) if address else Path(root).absolute()
    prefix = f"{os.path.normpath(folder).rstrip(os.sep)}{os.sep}"
    hint = f"paths are relative to {root} and stay inside it"
    first: dict[str, int] = {}
    for index, cell in enumerate(table.cells("path")):
        if not cell.strip() or "\0" in cell:
            raise table.wrong(index, f"{cell!r} is no path", "name an image, or remove the row")
        # Of a long manifest, paths as objects are what takes longest.
        full = os.path.normpath(os.path.join(prefix, cell.removeprefix(address)))  # noqa: PTH118
        if not full.startswith(prefix):
            raise table.wrong(index, f"{cell!r} leads out of the folder of the images", hint)
        name = full[len(prefix) :].replace(os.sep, "/")
        if first.setdefault(name, index) != index:
            what = f"{cell!r} is already listed in {table.at(first[name])}"
            raise table.wrong(index, what, "list each image once")
    return list(first)


def _labels(table: Table) -> list[tuple[str, ...]]:
    known: dict[str, tuple[str, ...]] = {"": ()}
    first: dict[str, int] = {}
    for index, cell in enumerate(table.cells("label")):
        if cell in known:
            continue
        parts = cell.split(None if table.separator == " " else table.separator)
        labels = tuple(part.strip() for part in parts) if cell.strip() else ()
        if "" in labels or len(set(labels)) < len(labels):
            what = f"label {cell!r} has an empty or repeated part between {table.separator!r}"
            raise table.wrong(index, what, "correct the cell")
        known[cell] = labels
        for label in labels:
            first.setdefault(label, index)
    _check_spelling(table, first)
    return [known[cell] for cell in table.cells("label")]


def _check_spelling(table: Table, first: Mapping[str, int]) -> None:
    """Refuses labels that differ in case, spaces or encoding only; `first` is a row of each."""
    seen: dict[str, str] = {}
    for label, index in first.items():
        key = "".join(unicodedata.normalize("NFKC", label).split()).casefold()
        other = seen.setdefault(key, label)
        if other != label:
            what = f"label {label!r} is {other!r} of {table.at(first[other])} in another spelling"
            raise table.wrong(index, what, "spell each label in one way")


def seems_joined(labels: Iterable[str]) -> str | None:
    """What labels seem to be joined by: others have some of the parts between it, too.

    Many phrases share words, so a space counts only where there are twice as many labels as words.
    """
    known = {label.strip() for label in labels}
    for separator in (",", "|", "+", "&", "/", " "):
        split = [[part.strip() for part in label.split(separator)] for label in known]
        whole = [parts for parts in split if all(parts)]  # C++ and A+ are joined of nothing
        parts = Counter(part for words in whole for part in set(words))
        if not any(len(parts) > 1 for parts in whole):
            continue
        is_shared = 2 * len(parts) <= len(known) if separator == " " else max(parts.values()) > 1
        if is_shared:
            return separator
    return None


def _splits(table: Table) -> list[str | None]:
    words = [cell.strip().lower() for cell in table.cells("split")]
    if not any(words):
        return [None] * len(words)
    for index, word in enumerate(words):
        if word not in SPLIT_NAMES:
            what = f"split {word!r} is none of {', '.join(SPLIT_NAMES)}"
            if not word:
                what = "no split, other rows have one"
            raise table.wrong(index, what, "give every row its split, or no row")
    return [SPLIT_NAMES[word] for word in words]


def _groups(table: Table) -> list[str | None]:
    return [cell.strip() or None for cell in table.cells("group")]


def _hashes(table: Table) -> list[str | None]:
    hashes = [cell.strip().lower() or None for cell in table.cells("sha256")]
    for index, digest in enumerate(hashes):
        if digest and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
            what = f"{digest[:80]!r} is no SHA-256"
            raise table.wrong(index, what, "it has 64 hexadecimal digits; correct it or empty it")
    return hashes


def _table(path: Path, rows: Sequence[Mapping[str, Any]], root: str | None) -> Table:
    """The cells to be written; raises `UserError` for a row that would be read as another one."""
    entries = [_entry(row, str(path)) for row in rows]
    cells = {
        "path": [entry.name for entry in entries],
        "label": [SEPARATOR.join(entry.labels) for entry in entries],
        "split": [entry.split or "" for entry in entries],
        "group": [entry.group or "" for entry in entries],
        "sha256": [entry.sha256 or "" for entry in entries],
    }
    kept = {column: values for column, values in cells.items() if column == "path" or any(values)}
    if any(row.get("label") is not None for row in rows):
        kept["label"] = cells["label"]
    ordered = {column: kept[column] for column in COLUMNS if column in kept}
    table = Table(path, ordered, range(len(rows)), "row", root)
    for index, (entry, read) in enumerate(zip(entries, parse(table, path.parent), strict=True)):
        if "label" in kept and rows[index].get("label") is None:
            raise table.wrong(index, "no label, other rows have one", "() says that it has none")
        for column, ours, theirs in zip(Entry._fields, entry, read, strict=True):
            if ours != theirs:
                what = f"{column} {ours!r} would be read back as {theirs!r}"
                raise table.wrong(index, what, "rename it")
    return table


def _entry(row: Mapping[str, Any], where: str) -> Entry:
    label = row.get("label")
    labels = () if label is None else (label,) if isinstance(label, str) else tuple(label)
    for name in labels:
        if SEPARATOR in name:
            what = f"class name {name!r} holds {SEPARATOR!r}, which stands between two labels"
            raise UserError(what, where, "rename the class")
    rest = (row.get(column) for column in ("split", "group", "sha256"))
    return Entry(str(row["path"]), labels, *rest)


def _relative(root: Path, folder: Path) -> str | None:
    """The root as seen from a folder; links are followed, as `..` after one does, too."""
    start, goal = os.path.realpath(folder), os.path.realpath(root)
    try:
        relative = os.path.relpath(goal, start).replace(os.sep, "/")
    except ValueError:  # another drive
        return goal
    return None if relative == "." else relative


def _write_csv(path: Path, table: Table) -> None:
    cells = (cell for column in table.columns.values() for cell in column)
    # A lone carriage return ends a line for the reader, but not for the writer, which looks for
    # its own line ending only.
    all_quoted = any("\r" in cell for cell in cells)
    with path.open("w", encoding="utf-8", newline="") as file:
        quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
        writer = csv.writer(file, lineterminator="\n", quoting=quoting)  # type: ignore[arg-type]
        if table.root is not None:
            writer.writerow([f"{ROOT_MARK} {table.root}"])
        writer.writerow(table.columns)
        writer.writerows(zip(*table.columns.values(), strict=True))


def _write_parquet(path: Path, table: Table) -> None:
    import pyarrow
    from pyarrow import parquet

    kind = pyarrow.string()
    content = pyarrow.table({name: pyarrow.array(c, kind) for name, c in table.columns.items()})
    known = {ROOT_KEY: table.root, SOURCE_KEY: table.source}
    if metadata := {key: value.encode() for key, value in known.items() if value}:
        content = content.replace_schema_metadata(metadata)
    parquet.write_table(content, path)
