"""Decoded images on disk: one pass over the files, then memory-mapped uint8 arrays.

The same pass finds what cannot be read. A store is complete or absent: it is written beside its
place and renamed, and its name is a hash of everything that it depends on. Processes that need the
same store build it once, and share its pages in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distill.data.decode import DECODING_VERSION, InputSpec, Pixels
from distill.data.sources import SPLITS, Item, Source
from distill.data.store.build import FORMAT, Advance, build_store, npy_header
from distill.errors import RunStopped
from distill.files import checksum
from distill.lock import lock


class Decoded(Protocol):
    """Images that are decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of all images as one array."""

    def take(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> Pixels:
        """Some of them."""


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        stored: uint8 `(m, height, width, 3)`, memory-mapped, or decoded when asked for; training
            images carry a margin.
        labels: Class indices, int64 `(n,)`; or, where an image may have several labels, int64
            `(n, num_classes)` of 0 and 1. -1 throughout for an image without a label.
        names: Path below the data folder, or name, of each image.
        digests: SHA-256 of each image's file content, or of its pixels where there is no file.
        rows: Where in `stored` each image is; None for all of them in order.
        shards: Number of the file that each image is in, int64 `(n,)`, where those of one file are
            better read together; None where any order is as good.
    """

    name: str
    stored: Pixels | Decoded
    labels: np.ndarray[Any, np.dtype[np.int64]]
    names: tuple[str, ...]
    digests: tuple[str, ...] = ()
    rows: NDArray[np.int64] | None = None
    shards: NDArray[np.int64] | None = None

    @property
    def pixels(self) -> Pixels:
        """The images, uint8 `(n, height, width, 3)`: mapped; of a subset or a stream, copied."""
        if self.rows is None and isinstance(self.stored, np.ndarray):
            return self.stored
        return self.take(np.arange(len(self.labels)))

    def take(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> Pixels:
        """Copies images out of the mapped file, or decodes them.

        Returns:
            uint8 `(len(ids), height, width, 3)`.

        Raises:
            RunStopped: The file was cut short since it was opened.
        """
        if is_cut_short(self.stored):
            place = str(getattr(self.stored, "filename", self.name))
            hint = "repeat the command, the images are decoded again"
            raise RunStopped("cut short while in use", place, hint)
        rows = ids if self.rows is None else self.rows[np.asarray(ids)]
        if not isinstance(self.stored, np.ndarray):
            return self.stored.take(rows)
        return np.asarray(self.stored).take(rows, axis=0)


def spread(split: Split, most: int) -> NDArray[np.int64]:
    """Images of a split, evenly over it, by their numbers."""
    count = len(split.labels)
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def subset(split: Split, rows: NDArray[np.int64]) -> Split:
    """Some images of a split, in the order of `rows`; nothing is copied."""
    return Split(
        name=split.name,
        stored=split.stored,
        labels=split.labels[rows],
        names=tuple(split.names[row] for row in rows),
        digests=tuple(split.digests[row] for row in rows),
        rows=rows if split.rows is None else split.rows[rows],
        shards=None if split.shards is None else split.shards[rows],
    )


def is_cut_short(array: Any) -> bool:
    """Whether an array is a view of a mapped file that has shrunk since.

    Reading a mapped page that its file no longer has kills the process (SIGBUS), so whoever reads
    asks first: a microsecond. A file that was deleted stays readable.
    """
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap) and array.size() < len(array)


@dataclass(frozen=True)
class Store:
    """All splits, and what the pass over the files found."""

    splits: dict[str, Split]
    unreadable: dict[str, str]
    sha256: str


def store_bytes(splits: Sequence[str], specs: dict[str, InputSpec]) -> int:
    """Size on disk of the store that `build_store` would write."""
    return sum(specs[split].height * specs[split].width * 3 for split in splits)


def open_store(
    source: Source,
    items: Sequence[Item],
    splits: Sequence[str],
    specs: dict[str, InputSpec],
    folder: Path,
    workers: int,
    advance: Advance,
    announce: Callable[[int], None] = lambda size: None,
) -> Store:
    """Opens the store of these images at these sizes, writing it if there is none that fits.

    A process that finds another at work on the same store waits for it.

    Args:
        specs: Size and resize rule per split.
        folder: Cache folder; the store is one sub-folder of it.
        workers: Decoding threads (Pillow releases the GIL).
        advance: Told how many more images are done.
        announce: Told the size in bytes of a store that is about to be written.

    Raises:
        RunStopped: The disk has no room for it.
    """
    place = folder / f"images-{_key(source, items, splits, specs)}"
    matrix = len(source.classes) if source.task == "multi" else None
    store = _load(place, specs, matrix)
    if store is None:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with lock(_lock_file(place)):
            store = _load(place, specs, matrix)
            if store is None:
                needed = store_bytes(splits, specs)
                announce(needed)
                build_store(source, items, splits, specs, needed, place, workers, advance)
                store = _load(place, specs, matrix)
    assert store is not None, f"{place} is damaged as soon as it is written"
    return store


def _key(
    source: Source, items: Sequence[Item], splits: Sequence[str], specs: dict[str, InputSpec]
) -> str:
    described = {split: spec.model_dump() for split, spec in specs.items()}
    known = [source.fingerprint, described, DECODING_VERSION]
    digest = hashlib.sha256(json.dumps(known).encode())
    for item, split in zip(items, splits, strict=True):
        digest.update(json.dumps([item.name, item.label, split]).encode())
    return digest.hexdigest()[:16]


def _lock_file(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


def _remove_abandoned(folder: Path) -> None:
    """Removes what killed processes left behind: half-written stores whose lock is free."""
    for work in folder.glob("images-*.tmp"):
        with lock(_lock_file(folder / work.name.partition(".")[0]), wait=False) as is_free:
            if is_free:
                shutil.rmtree(work, ignore_errors=True)


def _load(place: Path, specs: dict[str, InputSpec], matrix: int | None) -> Store | None:
    """The store at a place, None if it is absent, incomplete, damaged or of another format.

    Args:
        matrix: Columns of the labels; None for class indices.

    The index is checked by its hash, the arrays by their headers, sizes and checksums.
    """
    try:
        content = (place / "index.json").read_bytes()
        if hashlib.sha256(content).hexdigest() != (place / "index.sha256").read_text():
            return None
        index = json.loads(content)
        if index["format"] != FORMAT:
            return None
        splits = {name: _load_split(place, name, index, specs[name], matrix) for name in SPLITS}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Store(splits, index["unreadable"], index["sha256"])


def _load_split(
    place: Path, name: str, index: dict[str, Any], spec: InputSpec, matrix: int | None
) -> Split:
    """One split; raises `ValueError` where its array is not what the index says."""
    members = index["splits"].pop(name)
    labels = label_array(members["labels"], matrix)
    path, header = place / f"{name}.npy", npy_header(len(labels), spec)
    shape = (len(labels), spec.height, spec.width, 3)
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"{path} has another header")
    if path.stat().st_size != len(header) + math.prod(shape):
        raise ValueError(f"{path} has another size")
    pixels = np.memmap(path, np.uint8, "r", len(header), shape)
    if checksum(pixels) != index["checksums"][name]:
        raise ValueError(f"{path} was changed since it was written")
    return Split(name, pixels, labels, tuple(members["names"]), tuple(members["digests"]))


def label_array(labels: Sequence[Any], matrix: int | None) -> NDArray[np.int64]:
    """Labels as `Split.labels` has them."""
    if matrix is None:
        return np.asarray(labels, dtype=np.int64)
    rows = np.zeros((len(labels), matrix), dtype=np.int64)
    for row, label in zip(rows, labels, strict=True):
        row[slice(None) if label == -1 else label] = -1 if label == -1 else 1
    return rows
