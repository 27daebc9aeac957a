"""Where labelled images come from: one file per kind of source, found by the scheme of its name.

`demo` or `demo:3000` is `sources/demo.py`; anything without a known scheme is a folder. A source
module has one function `open_source(rest: str) -> Source`.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from PIL import Image

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
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
        UserError: No such folder, no class folders, one class, or class names that differ
            between splits.
    """
    scheme, _, rest = location.partition(":")
    known = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}
    is_scheme = re.fullmatch(r"[a-z]{2,}", scheme) and scheme in known and not Path(scheme).is_dir()
    name, argument = (scheme, rest) if is_scheme and scheme != "folder" else ("folder", location)
    source: Source = importlib.import_module(f"{__name__}.{name}").open_source(argument)
    return source
