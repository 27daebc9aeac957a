"""What a plan has to know of a data source: how many images, how large, how long a look takes."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distill.config import DataConfig
from distill.data.audit.fingerprints import take_fingerprints
from distill.data.decode import UnreadableImageError, to_pixels
from distill.data.prepare import input_spec
from distill.data.sources import SPLITS, Item, Source
from distill.errors import UserError

SAMPLE, DECODED = 96, 16  # images that are looked at, and decoded, spread over the source
RUNS = 3  # of neighbours that a sample is of, where images are read many at a time


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
    items = sample(source, SAMPLE)
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


def sample(source: Source, count: int) -> Sequence[Item]:
    """About so many images spread over a source: runs of neighbours, where shards have them.

    All of a shard is read for one of its images, so one of each would seem to take far longer.
    """
    items = source.items
    if source.shard_of is None or len(items) <= count:
        return items[:: max(1, len(items) // count)]
    length = count // RUNS
    firsts = ((len(items) - length) * run // (RUNS - 1) for run in range(RUNS))
    return [item for first in firsts for item in items[first : first + length]]


def _decoding_s(source: Source, data: DataConfig) -> float:
    """Seconds that one image takes to become pixels, in one thread."""
    items, spec = sample(source, DECODED), input_spec(data)
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
