"""Training images that are decoded when they are read, where there is no room for a store.

The pixels are those that a store would have, so that views, caches and hashes are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distill.data.decode import InputSpec, Pixels, UnreadableImageError, read_image, resize_image
from distill.data.sources import Item, Source
from distill.data.store.store import Split, label_array
from distill.errors import RunStopped


@dataclass(frozen=True, eq=False)
class Stream:
    """Images by number; memory is that of what was asked for, and of pictures in the making.

    Attributes:
        pool: Decoding threads (Pillow releases the GIL).
    """

    source: Source
    items: Sequence[Item]
    spec: InputSpec
    pool: ThreadPoolExecutor = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of all images as one array, `(n, height, width, 3)`."""
        return len(self.items), self.spec.height, self.spec.width, 3

    def take(self, ids: Sequence[int] | NDArray[np.integer]) -> Pixels:
        """Decodes some images, uint8 `(len(ids), height, width, 3)`.

        Raises:
            RunStopped: One of them cannot be read any more.
        """
        pixels = np.empty((len(ids), *self.shape[1:]), np.uint8)
        decoded = self.pool.map(self._decode, (self.items[number] for number in ids))
        for row, image in zip(pixels, decoded, strict=True):
            row[...] = image
        return pixels

    def _decode(self, item: Item) -> Pixels:
        try:
            return resize_image(read_image(self.source.read(item)), self.spec)
        except UnreadableImageError as error:
            what = f"{item.name} could be read before, and cannot now ({error})"
            hint = "take it out, or put it back as it was"
            raise RunStopped(what, self.source.location, hint) from None


def stream_split(
    name: str,
    source: Source,
    items: Sequence[Item],
    digests: Sequence[str],
    spec: InputSpec,
    workers: int,
) -> Split:
    """A split whose images are decoded when they are read.

    Args:
        items: All of them can be read.
        digests: SHA-256 of each.
        workers: Decoding threads.
    """
    pool = ThreadPoolExecutor(max(1, workers), "decode")
    labels = label_array(
        [item.label for item in items], len(source.classes) if source.task == "multi" else None
    )
    names = tuple(item.name for item in items)
    return Split(
        name,
        Stream(source, items, spec, pool),
        labels,
        names,
        tuple(digests),
        shards=_numbered(source, names),
    )


def _numbered(source: Source, names: Sequence[str]) -> NDArray[np.int64] | None:
    """The number of each image's file, where the order of reading matters."""
    if source.shard_of is None:
        return None
    known: dict[str, int] = {}
    numbers = (known.setdefault(source.shard_of(name), len(known)) for name in names)
    return np.fromiter(numbers, np.int64, len(names))
