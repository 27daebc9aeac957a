"""Stratified, seeded splits: an image's split follows from the seed and its own name."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from distill.config import DataConfig
from distill.data.sources import SPLITS, Item
from distill.errors import UserError


def assign_splits(
    items: Sequence[Item], classes: Sequence[str], config: DataConfig, seed: int
) -> list[str]:
    """The split of every item; splits that the source gives stay as they are.

    A missing `val` or `test` is taken out of `train`, class by class: those whose hash of (seed,
    name) is smallest, so that adding images moves few others. Each split gets at least one image
    of each class.

    Raises:
        UserError: A class has too few images for that, or a given split lacks a class.
    """
    given = {item.split for item in items if item.split}
    wanted = {
        split: fraction
        for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction))
        if split not in given
    }
    splits = [item.split or "train" for item in items]
    pools: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        if splits[index] == "train":
            pools[item.label].append(index)
    for label, name in enumerate(classes):
        pool = sorted(pools[label], key=lambda i: _key(seed, items[i].name))
        if len(pool) <= len(wanted):
            what = f"class {name!r} has {len(pool)} training images, too few to split"
            raise UserError(what, hint=f"it needs at least {len(wanted) + 1}")
        size = len(pool)
        for split, fraction in wanted.items():
            count = max(1, round(size * fraction))
            taken, pool = pool[: min(count, len(pool) - 1)], pool[min(count, len(pool) - 1) :]
            for index in taken:
                splits[index] = split
    check_no_class_is_empty(splits, [item.label for item in items], classes)
    return splits


def check_no_class_is_empty(
    splits: Sequence[str], labels: Sequence[int], classes: Sequence[str]
) -> None:
    """Raises `UserError` where a class has no image in a split."""
    counts = Counter(zip(splits, labels, strict=True))
    for split in SPLITS:
        for label, name in enumerate(classes):
            if not counts[split, label]:
                raise UserError(
                    f"class {name!r} has no readable image in {split}",
                    hint="add images to it, or remove the class folder",
                )


def limit_per_class(items: Sequence[Item], count: int) -> list[Item]:
    """The `count` images of each class and given split that come first by hash, in their order."""
    groups: dict[tuple[str | None, int], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.split, item.label].append(index)
    kept = set()
    for group in groups.values():
        kept.update(sorted(group, key=lambda i: _key(0, items[i].name))[:count])
    return [item for index, item in enumerate(items) if index in kept]


def _key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
