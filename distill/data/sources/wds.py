"""WebDataset shards: uncompressed tar files in which files of one name are one sample.

`wds:FOLDER`, `wds:FILE.tar` or `wds:data/train-{000..003}.tar`. A sample is a picture (`0001.jpg`,
`.png`, `.webp`, ...) and its label: `0001.cls` (the number of its class), `0001.json` with `label`
(number or name), or `0001.txt` (its name), the first of these that is there; other files are passed
over. A name's last dot is the one that counts: `cam1.v2.jpg` is labelled by `cam1.v2.cls`, or by
`cam1.cls` if that has no picture; if it has, `cam1.v2.jpg` without a label is one of the other
files. Shards whose names begin with train, val or test are of that split. The tar files are read
through once, for where everything is; then pictures are read in any order, from any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from distill.data.decode import (
    EXTENSIONS,
    HEIF_EXTENSIONS,
    MAX_BYTES,
    UnreadableImageError,
)
from distill.data.sources import Item, Source
from distill.data.sources._shards import (
    files_fingerprint,
    index_classes,
    listed_classes,
    place_of,
    splits_of_files,
)
from distill.errors import UserError
from distill.files import downloads, read_json, write_json
from distill.storage import Stamp, is_remote, locate, open_place, read_part, stamp

ENDING = ".tar"
INDEX_FORMAT = 1  # of what is remembered of shards behind addresses
LABELS = ("cls", "json", "txt")


def recognises(location: str) -> bool:
    """Whether a location ends in `.tar`, or is a folder of such files without sub-folders."""
    path = locate(location)
    if not path.is_dir():
        return path.suffix == ENDING and (path.is_file() or not path.exists())
    inside = [file for file in path.iterdir() if not file.name.startswith(".")]
    return any(f.suffix == ENDING for f in inside) and not any(f.is_dir() for f in inside)


def open_source(location: str) -> Source:
    """Lists the samples of all shards, by split and then in their order.

    Classes are the lines of `classes.txt` beside the shards, else the sorted labels. A sample's
    name is its shard's and its own.

    Raises:
        UserError: No such shard, one that is cut short or compressed, a sample without picture or
            label, a label of no class.
    """
    return _open(location, labelled=True)


def open_unlabelled(location: str) -> Source:
    """Lists the pictures of all shards, with or without labels; their label is -1."""
    return _open(location, labelled=False)


class _Part(NamedTuple):
    """Where a file of a sample is in its shard, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class _PartReader:
    """Reads single pictures; every read has a handle of its own, so threads need no lock."""

    places: dict[str, tuple[Path, Stamp, _Part]]

    def __call__(self, item: Item) -> bytes:
        path, known, part = self.places[item.name]
        if part.size > MAX_BYTES:
            raise UnreadableImageError(f"{part.size:,} bytes, more than a picture has")
        return read_part(path, known, *part)


def _open(location: str, labelled: bool) -> Source:
    files = _files(location)
    root = files[0].parent
    while root != root.parent and not all(file.is_relative_to(root) for file in files):
        root = root.parent
    splits = splits_of_files(files, location)
    pairs = sorted(zip(splits, files, strict=True), key=lambda pair: place_of(pair[0]))
    samples, places = [], {}
    for split, file in pairs:
        known, stem = stamp(file), file.relative_to(root).as_posix().removesuffix(file.suffix)
        found = _kept_samples(file, known, labelled)
        if not found:
            what = f"no pictures{' with a label' if labelled else ''} in it"
            raise UserError(what, str(file), "pack files such as 0001.jpg and 0001.cls")
        for key, picture, label in found:
            samples.append((Item(f"{stem}/{key}", -1, split), label, file))
            places[f"{stem}/{key}"] = (file, known, picture)
    if not samples:
        raise UserError("no pictures in the shards", location, "see the docs for what they hold")
    classes: tuple[str, ...] = ()
    items = [item for item, _, _ in samples]
    if labelled:
        names, listing = listed_classes(root)
        values = (label for _, label, _ in samples)
        classes, index = index_classes(names, values, listing if names else locate(location))
        items = [replace(i, label=_class_index(i, label, index, at)) for i, label, at in samples]
    return Source(
        location=location,
        classes=classes,
        items=tuple(items),
        read=_PartReader(places),
        shard_of=(lambda name: str(places[name][0])) if is_remote(root) else None,
        fingerprint=files_fingerprint(classes, root, files),
    )


def _files(location: str) -> list[Path]:
    path = locate(location)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(f for f in path.glob(f"*{ENDING}") if not f.name.startswith("."))
        if not files:
            raise UserError(f"no *{ENDING} in the folder", location, "name the folder of shards")
        return files
    files = []
    for name in _expand(location):
        path = locate(name)
        shards = [path] if path.is_file() else sorted(path.parent.glob(path.name))
        if not shards:
            what = "no such shard" if name != location else "no such shard or folder"
            raise UserError(what, name, "name a folder, a file, or like train-{000..003}.tar")
        files += shards
    return list(dict.fromkeys(files))


def _expand(pattern: str) -> Iterator[str]:
    """Names that a pattern with `{first..last}` and `{one,other}` stands for."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if not braces:
        yield pattern
        return
    first, dots, last = braces.group(1).partition("..")
    parts: Iterable[str] = braces.group(1).split(",")
    if dots and first.isdecimal() and last.isdecimal():
        padded = any(number != str(int(number)) for number in (first, last))
        width = max(len(first), len(last)) if padded else 1
        parts = (f"{n:0{width}d}" for n in range(int(first), int(last) + 1))
    for part in parts:
        yield from _expand(pattern[: braces.start()] + part + pattern[braces.end() :])


def _kept_samples(file: Path, known: Stamp, labelled: bool) -> list[tuple[str, _Part, Any]]:
    """The samples of a shard; of one behind an address they are remembered."""
    if not is_remote(file):
        return _samples(file, known, labelled)
    key = json.dumps([INDEX_FORMAT, str(file), known.size, known.version, labelled])
    place = downloads() / "indexes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(UserError):  # absent, or damaged: read again
        rows = read_json(place, list[tuple[str, int, int, Any]])
        return [(name, _Part(offset, size), label) for name, offset, size, label in rows]
    samples = _samples(file, known, labelled)
    write_json(place, [(name, *part, label) for name, part, label in samples])
    return samples


def _samples(file: Path, known: Stamp, labelled: bool) -> list[tuple[str, _Part, Any]]:
    """Key, picture and label of each sample of a shard; the label is None unless asked for."""
    by_key: dict[str, dict[str, _Part]] = {}
    for name, part in _members(file, known):
        key, _, ending = PurePosixPath(name).name.rpartition(".")
        if not key or key.startswith((".", "__")):  # hidden files; facts about the shard itself
            continue
        sample = by_key.setdefault(str(PurePosixPath(name).with_name(key)), {})
        is_picture = f".{ending.lower()}" in EXTENSIONS | HEIF_EXTENSIONS
        kind = "picture" if is_picture else ending.lower()
        if kind in sample:
            raise UserError(f"{name!r} is the second {kind} of its sample", str(file), "remove one")
        if kind in ("picture", *LABELS):
            sample[kind] = part
    _share_labels(by_key)
    samples = []
    with open_place(file, known) as opened:
        for key, parts in by_key.items():
            if not parts:
                continue
            if "picture" not in parts:
                alike = sum(bool(other) and "picture" not in other for other in by_key.values())
                what = f"sample {key!r} has no picture, only .{', .'.join(parts)}"
                what += f" ({alike:,} such samples)" if alike > 1 else ""
                raise UserError(what, str(file), f"known endings: {' '.join(sorted(EXTENSIONS))}")
            label = _label(opened, key, parts, file) if labelled else None
            samples.append((key, parts["picture"], label))
    return samples


def _share_labels(by_key: dict[str, dict[str, _Part]]) -> None:
    """Gives pictures like `0001.input.jpg` the label of `0001.cls`, where that has no picture.

    Where it has, `0001.seg.png` and `0001.meta.json` are other files of its sample.
    """
    served = set[str]()
    for key, parts in list(by_key.items()):
        place = PurePosixPath(key)
        first = str(place.with_name(place.name.partition(".")[0] or place.name))
        whole = by_key.get(first, {})
        if first == key or ("picture" in parts and not {*LABELS}.isdisjoint(parts)):
            continue
        if "picture" in whole:
            del by_key[key]
        elif "picture" in parts and whole:
            parts.update(whole)
            served.add(first)
    for first in served:
        del by_key[first]


def _members(file: Path, known: Stamp) -> Iterator[tuple[str, _Part]]:
    """Names and places of the files in a tar file that is whole."""
    hint = "fetch it again; if it is compressed, unpack it to a .tar"
    try:
        with open_place(file, known) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else all are kept
                if member.isreg():
                    yield member.name, _Part(member.offset_data, member.size)
            end = tar.offset
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"not readable as tar: {error}", str(file), hint) from None
    # Where a header is cut off or damaged, tarfile sees the end; a real end is a block of zeros.
    with open_place(file, known) as opened:
        if _content(opened, _Part(end, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
            raise UserError(f"cut short or damaged at byte {end:,}", str(file), hint)


def _content(file: Any, part: _Part) -> bytes:
    file.seek(part.offset)
    content: bytes = file.read(part.size) or b""
    return content


def _label(opened: BinaryIO, key: str, parts: dict[str, _Part], file: Path) -> int | str:
    """A sample's label: the number of its class, or its name."""
    for kind in LABELS:
        if kind not in parts:
            continue
        try:
            text = _content(opened, parts[kind]).decode("utf-8").strip()
            value: Any = text
            if kind == "cls":
                value = int(text)
            elif kind == "json":
                value = json.loads(text)
                if not isinstance(value, dict) or "label" not in value:
                    continue
                value = value["label"]
        except (ValueError, RecursionError) as error:
            what = f"{kind} of sample {key!r} is not readable: {error}"
            raise UserError(what, str(file), "write a number into .cls, a name into .txt") from None
        if isinstance(value, str):
            value = value.strip()
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            what = f"label {value!r} of sample {key!r} is no number and no name"
            raise UserError(what, str(file), "give each sample one label")
        return value
    what, hint = f"sample {key!r} has no label", "add .cls, .txt or a .json with label"
    if "/" in key:
        hint = f"if its folders are the classes, unpack it; else {hint}"
    raise UserError(what, str(file), f"{hint}, or use --unlabelled")


def _class_index(item: Item, label: Any, index: dict[Any, int], file: Path) -> int:
    if label not in index:
        what = f"label {label!r} of {item.name} is of no class"
        hint = f"classes are 0 to {max(index.values())}, or their names"
        raise UserError(what, str(file), f"{hint}: correct classes.txt or the sample")
    return index[label]
