"""Where labelled images come from: one file per kind of source, found by the scheme of its name.

`demo` or `demo:3000` is `sources/demo.py`, `parquet:PATH` is `sources/parquet.py`. A source module
has a function `open_source(rest: str) -> Source`, and may have `recognises(location: str) -> bool`
for locations that are its own without a scheme; what no module recognises is a folder of images.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

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


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image: a name unique in its source, a class index, and the split if given."""

    name: str
    label: int
    split: str | None = None


class Reader(Protocol):
    """Gives an item's picture, as something `read_image` decodes, or its raw bytes."""

    def __call__(self, item: Item) -> bytes | Image.Image:
        """The picture of an item."""


@dataclass(frozen=True)
class Source:
    """A listing of images and a way to read them; nothing is decoded yet.

    Attributes:
        fingerprint: Changes whenever the listing or a file's size or time does; cheap.
        ignored: Names of files that are not images by their ending.
    """

    location: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    read: Reader
    fingerprint: str
    ignored: tuple[str, ...] = field(default=())


def open_source(location: str) -> Source:
    """Lists a data source.

    Raises:
        UserError: Nothing there, or not laid out as its kind of source has to be, one class, or
            class names that differ between splits.
    """
    name, rest = _kind(location)
    source: Source = _module(name).open_source(rest)
    return source


def open_unlabelled(location: str) -> Source:
    """Lists images whatever their labels: any folder of images, or any data source.

    Raises:
        UserError: Nothing there.
    """
    name, rest = _kind(location)
    module = _module(name)
    source: Source
    if hasattr(module, "open_unlabelled"):
        source = module.open_unlabelled(rest)
        return source
    source = module.open_source(rest)
    return replace(source, items=tuple(Item(item.name, -1) for item in source.items))


def _kind(location: str) -> tuple[str, str]:
    """The module that opens a location, and what it is given."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    scheme, _, rest = location.partition(":")
    if scheme in known and scheme != "folder" and not Path(location).is_dir():
        return scheme, rest
    return next((name for name in known if _recognises(name, location)), "folder"), location


def _recognises(name: str, location: str) -> bool:
    module = _module(name)
    return hasattr(module, "recognises") and bool(module.recognises(location))


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
