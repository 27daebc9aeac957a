"""Decoded images on disk: one pass over the files, then memory-mapped uint8 arrays.

The same pass finds what cannot be read. A store is complete or absent: it is written beside its
place and renamed, and its name is a hash of everything that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.decode import InputSpec, Pixels, UnreadableImageError, read_image, resize_image
from distill.data.sources import SPLITS, Item, Source
from distill.errors import RunStopped

Advance = Callable[[int], None]
CHUNK = 256


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        pixels: uint8 `(n, height, width, 3)`, memory-mapped; training images carry a margin.
        labels: int64 `(n,)`.
        names: Path below the data folder, or name, of each image.
    """

    name: str
    pixels: Pixels
    labels: np.ndarray[Any, np.dtype[np.int64]]
    names: tuple[str, ...]


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
) -> Store:
    """Opens the store of these images at these sizes, writing it if there is none that fits.

    Args:
        specs: Size and resize rule per split.
        folder: Cache folder; the store is one sub-folder of it.
        workers: Decoding threads (Pillow releases the GIL).
        advance: Told how many more images are done.

    Raises:
        RunStopped: The disk has no room for it.
    """
    described = {split: spec.model_dump() for split, spec in specs.items()}
    members = [(item.name, item.label, split) for item, split in zip(items, splits, strict=True)]
    key = json.dumps([source.fingerprint, described, members]).encode()
    place = folder / f"images-{hashlib.sha256(key).hexdigest()[:16]}"
    if not _is_complete(place):
        _build(source, items, splits, specs, place, workers, advance)
    return _load(place)


def _is_complete(place: Path) -> bool:
    try:
        index = json.loads((place / "index.json").read_text())
        sizes = index["files"]
        return all((place / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _build(
    source: Source,
    items: Sequence[Item],
    splits: Sequence[str],
    specs: dict[str, InputSpec],
    place: Path,
    workers: int,
    advance: Advance,
) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    needed, free = store_bytes(splits, specs), shutil.disk_usage(place.parent).free
    if needed > free:
        raise RunStopped(
            f"the decoded images need {needed / 1e6:.0f} MB, {place.parent} has {free / 1e6:.0f} MB"
            " free: make room and repeat the command, or choose another --out"
        )
    work = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    work.mkdir(exist_ok=True)
    try:
        index: dict[str, Any] = {"unreadable": {}, "splits": {}, "digests": []}
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for split in SPLITS:
                members = [item for item, at in zip(items, splits, strict=True) if at == split]
                _write_split(source, members, split, specs[split], work, index, pool, advance)
        digests = json.dumps(sorted(index.pop("digests")))
        index["sha256"] = hashlib.sha256(digests.encode()).hexdigest()
        index["files"] = {file.name: file.stat().st_size for file in work.glob("*.npy")}
        (work / "index.json").write_text(json.dumps(index))
        shutil.rmtree(place, ignore_errors=True)
        work.replace(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_split(
    source: Source,
    members: Sequence[Item],
    split: str,
    spec: InputSpec,
    work: Path,
    index: dict[str, Any],
    pool: ThreadPoolExecutor,
    advance: Advance,
) -> None:
    """Decodes the members in chunks; images that fail leave no gap in the array."""

    def decode(item: Item) -> tuple[Pixels | None, str]:
        try:
            raw = source.read(item)
            content = raw if isinstance(raw, bytes) else raw.tobytes()
            return resize_image(read_image(raw), spec), hashlib.sha256(content).hexdigest()
        except (UnreadableImageError, OSError) as error:
            return None, str(error)

    file = work / f"{split}.npy"
    shape = (len(members), spec.height, spec.width, 3)
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    kept: list[Item] = []
    for start in range(0, len(members), CHUNK):
        chunk = members[start : start + CHUNK]
        for item, (pixels, note) in zip(chunk, pool.map(decode, chunk), strict=True):
            if pixels is None:
                index["unreadable"][item.name] = note
                continue
            array[len(kept)] = pixels
            index["digests"].append([item.name, item.label, note])
            kept.append(item)
        advance(len(chunk))
    array.flush()
    index["splits"][split] = {
        "names": [item.name for item in kept],
        "labels": [item.label for item in kept],
    }


def _load(place: Path) -> Store:
    index = json.loads((place / "index.json").read_text())
    splits = {}
    for name, members in index["splits"].items():
        labels = np.asarray(members["labels"], dtype=np.int64)
        pixels = np.load(place / f"{name}.npy", mmap_mode="r")[: len(labels)]
        splits[name] = Split(name, pixels, labels, tuple(members["names"]))
    return Store(splits, index["unreadable"], index["sha256"])
