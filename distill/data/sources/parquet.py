"""Parquet as on the Hugging Face Hub: a struct column `image {bytes, path}` and a column `label`.

`FOLDER` or `FOLDER/data` holds `train*.parquet`, `val*.parquet`, `test*.parquet` (one file or
several shards per split), or a folder `train`, `val`, `test` with the files of each; or the
location is one such file. Only the labels are read for the
listing; pictures are read a row group at a time, and at least the last two row groups are kept: a
writer that puts a whole file into one row group makes it be held whole.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from distill.data.decode import UnreadableImageError
from distill.data.sources import SPLIT_NAMES, Item, Source
from distill.data.sources._manifest import HUB_NAMES
from distill.data.sources._shards import (
    files_fingerprint,
    index_classes,
    listed_classes,
    place_of,
    splits_of_files,
)
from distill.data.sources._tables import lists_paths, open_parquet
from distill.data.walk import files_in, folders_in
from distill.errors import UserError
from distill.storage import locate

ENDING = ".parquet"
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")
# Reads come nearly in order: of large row groups two are in use at a time, of small ones more; but
# those of a stream, which go through several row groups at a time, have as many kept.
KEPT_BYTES, MOST_BYTES = 2**22, 2**30


def recognises(location: str) -> bool:
    """Whether a location is a Parquet file, or a folder with some where they are looked for.

    A file that lists paths of pictures is a manifest.
    """
    path = locate(location)
    if path.is_dir():
        return bool(_files(path))
    return path.suffix == ENDING and not lists_paths(path)


def open_source(location: str) -> Source:
    """Lists the rows of a folder of Parquet files or of one file, in the order of the files.

    Classes are the lines of `classes.txt` beside the files, else the names of a `ClassLabel` in
    the schema, else the sorted labels. A row's name is its file's and its number.
    """
    path = locate(location)
    root = path.parent if path.is_file() else path
    files = [path] if path.is_file() else _files(path)
    if not files:
        hint = f"name a folder with train*{ENDING}, or one such file"
        raise UserError("no Parquet file", location, hint)
    tables = [_open_table(file, root) for file in files]
    splits = splits_of_files(files, location)
    listed = sorted(zip(splits, tables, strict=True), key=lambda pair: place_of(pair[0]))
    labels = [_read_labels(table) for _, table in listed]
    names, place = _named_classes(root, tables[0])
    classes, index = index_classes(names, chain.from_iterable(labels), place)
    items = tuple(
        Item(f"{table.stem}/{row:06d}", label, split)
        for (split, table), column in zip(listed, labels, strict=True)
        for row, label in enumerate(_class_indices(table, column, index))
    )
    reader = _RowReader({table.stem: table for table in tables})

    def row_group(name: str) -> str:
        table, group, _ = reader.place(name)
        return f"{table.stem}/{group}"

    return Source(
        location=location,
        classes=classes,
        items=items,
        read=reader,
        fingerprint=files_fingerprint(classes, root, files),
        shard_of=row_group,
    )


@dataclass(frozen=True)
class _Table:
    """A Parquet file, opened once for its footer and its labels.

    Attributes:
        stem: Path below the root, without the ending.
        starts: First row of each row group, and at the end the number of rows.
    """

    path: Path
    stem: str
    image: str
    label: str
    starts: tuple[int, ...]
    schema: Any


@dataclass
class _RowReader:
    """Reads single pictures, keeping the row groups used last; safe to call from threads.

    A row group that has to be read again would have been worth keeping: more are kept from then on.
    """

    tables: dict[str, _Table]
    most: int = KEPT_BYTES
    kept: OrderedDict[tuple[str, int], Any] = field(default_factory=OrderedDict)
    dropped: set[tuple[str, int]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def place(self, name: str) -> tuple[_Table, int, int]:
        """Table, row group and row of an item."""
        stem, _, number = name.rpartition("/")
        table, row = self.tables[stem], int(number)
        return table, bisect_right(table.starts, row) - 1, row

    def __call__(self, item: Item) -> bytes:
        table, group, row = self.place(item.name)
        content = self._row_group(table, group)[row - table.starts[group]].as_py()
        if content is None:
            raise UnreadableImageError(f"no picture in column {table.image!r}")
        picture: bytes = content
        return picture

    def _row_group(self, table: _Table, group: int) -> Any:
        key = (table.stem, group)
        with self.lock:  # threads that need the same row group wait for one decoding of it
            if key not in self.kept:
                pictures = _read_row_group(table, group)
                if key in self.dropped:
                    self.dropped.discard(key)
                    self.most = min(self.most + pictures.nbytes, MOST_BYTES)
                while len(self.kept) > 1 and sum(k.nbytes for k in self.kept.values()) > self.most:
                    self.dropped.add(self.kept.popitem(last=False)[0])
                self.kept[key] = pictures
            self.kept.move_to_end(key)
            return self.kept[key]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    inner = folders_in(folder)
    for place in (folder, folder / "data", *(inner if len(inner) == 1 else ())):
        if not place.is_dir():
            continue
        splits = [below for below in folders_in(place) if below.name.lower() in SPLIT_NAMES]
        found = [file for below in (place, *splits) for file in files_in(below)]
        if files := [f for f in found if f.suffix == ENDING and f.name not in HUB_NAMES]:
            return files
    return []


def _open_table(path: Path, root: Path) -> _Table:
    from pyarrow import types

    with open_parquet(path) as file:
        schema, footer = file.schema_arrow, file.metadata
    sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    image = _column(schema.names, IMAGE_COLUMNS, path)
    kind = schema.field(image).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        what = f"column {image!r} is {schema.field(image).type}"
        raise UserError(what, str(path), "make it a struct with the encoded picture in bytes")
    stem = path.relative_to(root).as_posix().removesuffix(ENDING)
    label = _column(schema.names, LABEL_COLUMNS, path)
    return _Table(path, stem, image, label, (0, *accumulate(sizes)), schema)


def _column(names: Sequence[str], known: Sequence[str], path: Path) -> str:
    for name in known:
        if name in names:
            return name
    what = f"no column {known[0]!r} among {', '.join(names) or 'no columns'}"
    raise UserError(what, str(path), f"rename the column to {known[0]!r}")


def _read_labels(table: _Table) -> list[Any]:
    from pyarrow import types

    with open_parquet(table.path) as file:
        column = file.read(columns=[table.label]).column(table.label)
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        labels: list[Any] = column.to_pylist()
    kind = column.type
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        what = f"column {table.label!r} is {kind}"
        raise UserError(what, str(table.path), "store class numbers or class names in it")
    if None in labels:
        what = f"no label in row {labels.index(None)} of column {table.label!r}"
        raise UserError(what, str(table.path), "label the row or remove it")
    return labels


def _named_classes(root: Path, table: _Table) -> tuple[tuple[str, ...], Path]:
    """Class names and the file that gives them; none if no file does."""
    names, file = listed_classes(root)
    if names:
        return names, file
    text = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(text)["info"]["features"][table.label]["names"]
        return tuple(str(name) for name in names), table.path
    except (ValueError, KeyError, TypeError):
        return (), table.path


def _class_indices(table: _Table, labels: Sequence[Any], index: dict[Any, int]) -> Iterator[int]:
    for row, label in enumerate(labels):
        if label not in index:
            what = f"label {label!r} in row {row} of column {table.label!r} is of no class"
            hint = f"classes are 0 to {max(index.values())}, or their names"
            raise UserError(what, str(table.path), f"{hint}: correct or remove the row")
        yield index[label]


def _read_row_group(table: _Table, group: int) -> Any:
    """The encoded pictures of a row group, an Arrow array of binaries."""
    from pyarrow import compute, types

    with open_parquet(table.path) as file:
        is_struct = types.is_struct(file.schema_arrow.field(table.image).type)
        columns = [f"{table.image}.bytes" if is_struct else table.image]
        pictures = file.read_row_group(group, columns=columns).column(table.image)
        if is_struct:
            pictures = compute.struct_field(pictures, "bytes")
    if len(pictures) != table.starts[group + 1] - table.starts[group]:
        raise UserError("changed while it was read", str(table.path), "repeat the command")
    return pictures
