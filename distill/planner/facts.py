"""What a plan has to know of a data source: how many images, how large, how long a look takes."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass

from distill.config import DataConfig
from distill.data.audit.fingerprints import take_fingerprints
from distill.data.decode import UnreadableImageError, to_pixels
from distill.data.prepare import input_spec
from distill.data.sources import SPLITS, Source
from distill.errors import UserError

SAMPLE = 96  # images that are looked at, spread over the source


@dataclass(frozen=True)
class Facts:
    """A data source, as far as a sample and its listing tell.

    Attributes:
        counts: Images of `train`, `val` and `test` as they will be, about.
        smallest, largest: Images of the smallest and of the largest class.
        short_side: Median length of the shorter side, in pixels.
        look_s: Seconds of a first look at one image and of decoding it, with so many workers.
    """

    images: int
    classes: int
    counts: dict[str, int]
    smallest: int
    largest: int
    short_side: int
    look_s: float


def look(source: Source, data: DataConfig, workers: int) -> Facts:
    """Looks at a sample of a source's images.

    Raises:
        UserError: None of them can be read.
    """
    items = source.items[:: max(1, len(source.items) // SAMPLE)]
    start = time.perf_counter()
    prints = take_fingerprints(source, items, None, workers, lambda count: None)
    looked = (time.perf_counter() - start) / len(items)
    sides = [
        min(sizes)
        for *sizes, good in zip(prints.width, prints.height, prints.readable, strict=True)
        if good
    ]
    if not sides:
        name, reason = next(iter(prints.unreadable.items()))
        what = f"no image can be read; {name}: {reason}"
        raise UserError(what, source.location, "convert them to JPEG or PNG")
    found = Counter(
        label
        for item in source.items
        for label in (item.label if isinstance(item.label, tuple) else (item.label,))
    )
    sizes_of_classes = [found[label] for label in range(len(source.classes))]
    return Facts(
        images=len(source.items),
        classes=len(source.classes),
        counts=split_counts(source, data),
        smallest=min(sizes_of_classes, default=0),
        largest=max(sizes_of_classes, default=0),
        short_side=round(statistics.median(sides)),
        look_s=looked + _decoding_s(source, data) / workers,
    )


def _decoding_s(source: Source, data: DataConfig) -> float:
    """Seconds that one image takes to become pixels, in one thread."""
    items, spec = source.items[:: max(1, len(source.items) // 16)], input_spec(data)
    start = time.perf_counter()
    for item in items:
        try:
            to_pixels(source.read(item), spec)
        except UnreadableImageError:
            continue
    return (time.perf_counter() - start) / len(items)


def split_counts(source: Source, data: DataConfig) -> dict[str, int]:
    """Images of each split that the source gives or that is taken out of `train`, about."""
    given = Counter(item.split or "train" for item in source.items)
    if data.split in ("grouped", "shifted"):
        given = Counter(train=len(source.items))
    counts, whole = dict(given), given["train"]
    for split, share in (("val", data.val_fraction), ("test", data.test_fraction)):
        if not given[split]:
            counts[split] = round(share * whole)
            counts["train"] -= counts[split]
    return {split: counts.get(split, 0) for split in SPLITS}
