"""Writing a decoded store: every image read once, in order, into one uint8 array per split.

A store is written beside its place and renamed, so that what has its name is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.decode import InputSpec, Pixels, UnreadableImageError, read_image, resize_image
from distill.data.digest import data_sha256, image_sha256
from distill.data.sources import SPLITS, Item, Source
from distill.errors import RunStopped
from distill.files import NO_SPACE, checksum

Advance = Callable[[int], None]
CHUNK = 256
FORMAT = 3  # of index.json; a store of another format is written again


def build_store(
    source: Source,
    items: Sequence[Item],
    splits: Sequence[str],
    specs: dict[str, InputSpec],
    needed: int,
    place: Path,
    workers: int,
    advance: Advance,
) -> None:
    """Decodes the items into a new store at `place`, replacing what is there.

    Args:
        needed: Bytes that it will have.

    Raises:
        RunStopped: No room for it, found beforehand or while writing; nothing stays behind.
    """
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise _no_room(needed, place.parent, free)
    work = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    work.mkdir(exist_ok=True)
    try:
        index: dict[str, Any] = {"format": FORMAT, "unreadable": {}, "checksums": {}, "splits": {}}
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for split in SPLITS:
                members = [item for item, at in zip(items, splits, strict=True) if at == split]
                _write_split(source, members, split, specs[split], work, index, pool, advance)
        rows = (zip(*columns.values(), strict=True) for columns in index["splits"].values())
        index["sha256"] = data_sha256(row for split in rows for row in split)
        _write_index(work, index)
        shutil.rmtree(place, ignore_errors=True)
        work.replace(place)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        free = shutil.disk_usage(place.parent).free
        raise _no_room(needed, place.parent, free) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _no_room(needed: int, folder: Path, free: int) -> RunStopped:
    what = f"the decoded images need {needed / 1e6:.0f} MB, free are {free / 1e6:.0f}"
    return RunStopped(
        what, str(folder), "make room and repeat the command, or choose another --out"
    )


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
    """Decodes the members in chunks; images that fail leave no gap in the array.

    Written, not mapped: on a full disk a write fails, while a mapped page kills the process.
    """

    def decode(item: Item) -> tuple[Pixels | None, str]:
        try:
            raw = source.read(item)
            return resize_image(read_image(raw), spec), image_sha256(raw)
        except UnreadableImageError as error:
            return None, str(error)

    kept: list[Item] = []
    digests: list[str] = []
    total = 0
    with (work / f"{split}.npy").open("wb") as file:
        file.write(npy_header(len(members), spec))
        for start in range(0, len(members), CHUNK):
            chunk = members[start : start + CHUNK]
            for item, (pixels, note) in zip(chunk, pool.map(decode, chunk), strict=True):
                if pixels is None:
                    index["unreadable"][item.name] = note
                    continue
                file.write(np.ascontiguousarray(pixels).data)
                total = checksum(pixels, total)
                digests.append(note)
                kept.append(item)
            advance(len(chunk))
        file.seek(0)
        file.write(npy_header(len(kept), spec))
        file.flush()
        os.fsync(file.fileno())
    index["splits"][split] = {
        "names": [item.name for item in kept],
        "labels": [item.label for item in kept],
        "digests": digests,
    }
    index["checksums"][split] = total


def npy_header(count: int, spec: InputSpec) -> bytes:
    """What a `.npy` file begins with; numpy pads it, so its length does not depend on `count`."""
    header = io.BytesIO()
    shape = (count, spec.height, spec.width, 3)
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _write_index(work: Path, index: dict[str, Any]) -> None:
    """Writes the index and, beside it, the hash that tells a damaged one."""
    with (work / "index.json").open("w") as file:
        for part in json.JSONEncoder().iterencode(index):
            file.write(part)
    digest = hashlib.sha256((work / "index.json").read_bytes()).hexdigest()
    (work / "index.sha256").write_text(digest)
