"""Where labelled images come from: one file per kind of source, found by the scheme of its name.

`demo` or `demo:3000` is `sources/demo.py`, `parquet:PATH` is `sources/parquet.py`. A source module
has a function `open_source(rest: str) -> Source`, and may have `recognises(location: str) -> bool`
for locations that are its own without a scheme; what no module recognises is a folder of images.
One whose images need no labels has `open_unlabelled(rest: str) -> Source`, too, and one that knows
of licences `license_of(rest: str) -> str`; else what lies beside the data states them.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from distill.config import TaskName
from distill.data.decode import warn_of_heif
from distill.data.sources._license import license_beside
from distill.errors import RunStopped, UserError, printable, unprintable
from distill.storage import ADDRESS, forget, is_address, locate, reached

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


UNPACK = {  # what is not read as it is; plain tar files are shards, or say what they are
    ".zip": "python -m zipfile -e {} FOLDER",
    **dict.fromkeys(
        (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"),
        "mkdir FOLDER && tar -xf {} -C FOLDER",
    ),
    **dict.fromkeys((".7z", ".rar"), "7z x {} -oFOLDER"),
}

Label = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image.

    Attributes:
        name: Unique in its source.
        label: A class index, or, where an image may have several labels or none, all of its class
            indices in ascending order; -1 for an image without a label.
        split: The split that the source gives, if it gives one.
        group: Images of one group belong into the same split; None where that is not known.
    """

    name: str
    label: Label
    split: str | None = None
    group: str | None = None


class Reader(Protocol):
    """Gives an item's picture, as something `read_image` decodes, or its raw bytes.

    What is wrong with the picture is an `UnreadableImageError`, and is remembered. That it cannot
    be read just now is an `OSError`, which ends the command: another time it can.
    """

    def __call__(self, item: Item) -> bytes | Image.Image:
        """The picture of an item."""


@dataclass(frozen=True)
class Source:
    """A listing of images and a way to read them; nothing is decoded yet.

    Attributes:
        fingerprint: Changes whenever the listing or a file's size or time does; cheap.
        ignored: Names of files that are not images by their ending.
        task: `multi` if the labels of its items are tuples.
        distinct: No two images can be copies, so that nobody needs to compare them.
        root: Folder that the names of its items are paths below; None where they are no files.
        shard_of: What an item is read with, by its name: a file far away, a part of one; those of
            one are better read together. None where any order is as good.
        notes: What was understood of it, or left out, that one should know.
    """

    location: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    read: Reader
    fingerprint: str
    ignored: tuple[str, ...] = field(default=())
    task: TaskName = "single"
    distinct: bool = False
    root: Path | None = None
    shard_of: Callable[[str], str] | None = None
    notes: tuple[str, ...] = ()


def open_source(location: str, task: TaskName | None = "single", to_train: bool = True) -> Source:
    """Lists a data source.

    Args:
        task: What the labels are to be: one per image, or any number of them. A source of one
            label per image serves both. None leaves it to the source.
        to_train: Otherwise a split for tests will do, and images of one class.

    Raises:
        UserError: Nothing there, or not laid out as its kind of source has to be, nothing to train
            on, one class, class names that look the same, or several labels where one is asked for.
    """
    if not location.strip():
        raise UserError("an empty name", "--data", "name a folder, a manifest or demo")
    with _looking(location):
        name, rest = _kind(location)
        source = _guarded(_module(name).open_source(rest))
    source = _normalised(source)
    if to_train:
        _check_trainable(source)
    if task in (None, source.task):
        return source
    change = _one_label if task == "single" else _as_tuple
    items = tuple(change(item, source) for item in source.items)
    return replace(source, items=items, task=task)


def _check_trainable(source: Source) -> None:
    """Raises `UserError` where there is one class only, or no image that may be trained on."""
    splits = {item.split for item in source.items}
    if not splits & {None, "train"}:
        what = f"nothing to train on: all images are of {' and '.join(sorted(map(str, splits)))}"
        raise UserError(what, source.location, "add images of train")
    if len(source.classes) < 2:
        hint = "add images of another class"
        inside = {place for item in source.items if (place := Path(item.name).parts[1:-1])}
        if source.root and len(inside) > 1 and None in splits:
            hint = f"name {source.root / source.classes[0]}, whose folders are classes"
        raise UserError(f"only one class, {source.classes[0]!r}", source.location, hint)


@contextlib.contextmanager
def _looking(location: str) -> Iterator[None]:
    """A look at a source, whose address, if it has one, may fail in ways of its own."""
    address = ADDRESS.search(location)
    if address is None:
        yield
        return
    forget(location[address.start() :])
    with reached(location):
        yield


def _normalised(source: Source) -> Source:
    """The source with names in composed Unicode, as every other source has them.

    Raises:
        UserError: Two classes have one name in two forms.
    """
    seen: dict[str, str] = {}
    for name in source.classes:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            what = f"classes {name!a} and {other!a} are {name!r} in two forms of Unicode"
            raise UserError(what, source.location, "rename one as the other")
    return replace(source, classes=tuple(seen)) if tuple(seen) != source.classes else source


def _guarded(source: Source) -> Source:
    """The source, a failure of its disk or network being a run that stops.

    Raises:
        UserError: A class has a name that a terminal, a table or a file of labels cannot show.
    """
    if odd := [name for name in source.classes if unprintable(name)]:
        what = f"a class is called {printable(odd[0])!r}, which has characters that do not show"
        raise UserError(what, source.location, "rename it")

    def read(item: Item) -> bytes | Image.Image:
        try:
            return source.read(item)
        except OSError as error:
            what = f"{item.name} cannot be read now ({error.strerror or error})"
            hint = "repeat the command; if it stays so, take the picture out"
            raise RunStopped(what, source.location, hint) from None

    return replace(source, read=read)


def tell(source: Source, say: Callable[[str], None]) -> None:
    """Says what was left out of a source, and how it was understood where that is not plain."""
    warn_of_heif(source.ignored, source.location, say)
    for note in source.notes:
        say(f"warning: {note}")


def _one_label(item: Item, source: Source) -> Item:
    labels = item.label if isinstance(item.label, tuple) else (item.label,)
    if len(labels) != 1:
        names = "".join(f"{', ' if n else ': '}{source.classes[i]}" for n, i in enumerate(labels))
        what = f"{item.name} has {len(labels)} labels{names}"
        hint = 'set data.task="multi", or give every image one label'
        raise UserError(what, source.location, hint)
    return replace(item, label=labels[0])


def _as_tuple(item: Item, source: Source) -> Item:
    return replace(item, label=(item.label,)) if isinstance(item.label, int) else item


def open_unlabelled(location: str) -> Source:
    """Lists images whatever their labels: any folder of images, or any data source.

    Raises:
        UserError: Nothing there.
    """
    with _looking(location):
        name, rest = _kind(location)
        module = _module(name)
        if hasattr(module, "open_unlabelled"):
            return _guarded(module.open_unlabelled(rest))
        source = _guarded(module.open_source(rest))
    items = tuple(Item(item.name, -1) for item in source.items)
    return replace(source, items=items, task="single")


def license_of(location: str) -> str:
    """The licence that data state, by its name on the Hub or in SPDX; empty where they do not."""
    name, rest = _kind(location)
    module = _module(name)
    if hasattr(module, "license_of"):
        return str(module.license_of(rest))
    return license_beside(Path(rest))


def _kind(location: str) -> tuple[str, str]:
    """The module that opens a location, and what it is given."""
    _check_kind(location)
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    scheme, _, rest = location.partition(":")
    is_scheme = scheme in known and scheme != "folder" and not is_address(location)
    if is_scheme and not Path(location).is_dir():
        return scheme, rest
    return next((name for name in known if _recognises(name, location)), "folder"), location


def _check_kind(location: str) -> None:
    """Raises `UserError` for what has to be fetched or unpacked first, and says how."""
    if location.lower().startswith(("http://", "https://", "ftp://")):
        hint = f"fetch and unpack it, then name its folder: curl -LO {shlex.quote(location)}"
        on_hub = re.match(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)", location)
        hint = f"write hf:{on_hub[1]}" if on_hub else hint
        raise UserError("data are not fetched from addresses of the web", printable(location), hint)
    path = locate(location)
    endings = [ending for ending in UNPACK if path.name.lower().endswith(ending)]
    if endings and path.is_file():
        command = UNPACK[endings[0]].format(shlex.quote(location))
        raise UserError("an archive", location, f"unpack it, then name its folder: {command}")


def _recognises(name: str, location: str) -> bool:
    module = _module(name)
    return hasattr(module, "recognises") and bool(module.recognises(location))


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
