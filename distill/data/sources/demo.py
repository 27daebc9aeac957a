"""The built-in data set: `demo` or `demo:COUNT`, painted faces with and without masks."""

from __future__ import annotations

from PIL import Image

from distill.data.demo import CLASSES, label_of, paint
from distill.data.sources import Item, Source
from distill.errors import UserError

DEFAULT_COUNT = 3000
FEWEST, MOST = 30, 10_000_000


def open_source(rest: str) -> Source:
    """Lists `COUNT` images that are painted when they are read; the splits are left to the seed.

    No two are of the same face, so there are no copies to look for.
    """
    is_number = (rest or "0").isdecimal() and len(rest) <= len(str(MOST))
    count = int(rest or DEFAULT_COUNT) if is_number else 0
    if not FEWEST <= count <= MOST:
        hint = f"write demo:COUNT, {FEWEST} to {MOST:,}"
        raise UserError("no usable number of images", f"demo:{rest}", hint)
    names = [f"demo/{i:06d}" for i in range(count)]
    return Source(
        location=f"demo:{count}",
        classes=CLASSES,
        items=tuple(Item(n, label_of(i)) for i, n in enumerate(names)),
        read=lambda item: Image.fromarray(paint(int(item.name.split("/")[1]))[0]),
        fingerprint=f"demo-1-{count}",
        distinct=True,
    )


def license_of(rest: str) -> str:
    """That of this package, which paints them."""
    return "apache-2.0"
