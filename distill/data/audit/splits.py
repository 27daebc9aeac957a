"""Stratified, seeded splits by group: a group's split follows from the seed and its own name.

A group is a set of images that must not be on both sides of a score, such as near-duplicates; an
image without such company is a group of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from distill.config import DataConfig
from distill.data.sources import SPLITS, Item, Label
from distill.errors import UserError, alike

UNLABELLED = -1
Counts = Counter[int]


def labels_of(item: Item) -> tuple[int, ...]:
    """What an image counts for when splits are balanced; an image without labels is a kind too."""
    if isinstance(item.label, int):
        return (item.label,)
    return item.label or (UNLABELLED,)


def assign_splits(
    items: Sequence[Item],
    classes: Sequence[str],
    config: DataConfig,
    seed: int,
    groups: Sequence[str] | None = None,
) -> list[str]:
    """The split of every item; splits that the source gives stay, unless `config.split` says so.

    A missing `val` or `test` is taken out of `train`, class by class and the rarest first: the
    groups whose hash of (seed, name) is smallest and that still fit, so that adding images moves
    few others. Each split gets at least one image of each class. Groups that are also in a given
    split are taken last; `train` and what is taken out of it never share one.

    Args:
        groups: Name of the group of each item; None where each is a group of its own.

    Raises:
        UserError: A class has too few groups for that, or `train` lacks a class.
    """
    anew = config.split in ("grouped", "shifted")
    given = [None if anew else item.split for item in items]
    fractions = {
        split: fraction
        for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction))
        if split not in given
    }
    splits = [split or "train" for split in given]
    members: dict[str, list[int]] = defaultdict(list)
    names = groups or [item.name for item in items]
    settled = {group for group, split in zip(names, splits, strict=True) if split != "train"}
    for index, group in enumerate(names):
        if splits[index] == "train":
            members[group].append(index)
    counts = {g: Counter(k for i in ids for k in labels_of(items[i])) for g, ids in members.items()}
    order = sorted(counts, key=lambda group: (group in settled, _key(seed, group)))
    for group, split in _take(order, counts, fractions, classes, items).items():
        for index in members[group]:
            splits[index] = split
    check_no_class_is_empty(splits, [item.label for item in items], classes)
    return splits


def _take(
    order: Sequence[str],
    counts: dict[str, Counts],
    fractions: dict[str, float],
    classes: Sequence[str],
    items: Sequence[Item],
) -> dict[str, str]:
    """The groups that leave `train`, and where they go; the first in `order` go first."""
    total = sum(counts.values(), Counter())
    holders: dict[int, list[str]] = defaultdict(list)
    for group in order:
        for label in counts[group]:
            holders[label].append(group)
    need = {
        split: {label: max(1, round(count * fraction)) for label, count in total.items()}
        for split, fraction in fractions.items()
    }
    taken: dict[str, str] = {}
    for label in sorted({*total, *range(len(classes))}, key=lambda k: (total[k], k)):
        if label != UNLABELLED and len(holders[label]) <= len(fractions):
            if not total[label]:
                held = any(label in labels_of(item) for item in items)
                raise _unlearnt(classes[label], classes, held)
            raise _too_few(classes[label], len(holders[label]), total[label], len(fractions))
        for split in fractions:
            free = [group for group in holders[label] if group not in taken]
            for group in _fitting(free, label, counts, need[split][label], len(fractions)):
                taken[group] = split
                for other, count in counts[group].items():
                    need[split][other] = max(0, need[split][other] - count)
    return taken


def _fitting(
    free: Sequence[str], label: int, counts: dict[str, Counts], need: int, spare: int
) -> list[str]:
    """The first groups that together have at most `need` images of a label, but at least one.

    Args:
        spare: Groups to leave for the other splits, as far as there are any.
    """
    chosen: list[str] = []
    for group in free:
        if need <= 0 or len(free) - len(chosen) <= min(spare, len(free) - 1):
            break
        if counts[group][label] <= need:
            chosen.append(group)
            need -= counts[group][label]
    if not chosen and need > 0 and len(free) > 1:
        chosen = [min(free, key=lambda group: counts[group][label])]
    return chosen


def _too_few(name: str, groups: int, images: int, num_splits: int) -> UserError:
    if groups == images:
        what = f"class {name!r} has {images} training images, too few to split"
        return UserError(what, hint=f"add some: it needs at least {num_splits + 1}")
    what = f"{images} images of class {name!r} make {groups} groups of copies, too few to split"
    return UserError(what, hint="add others, or let images be split one by one: data.split=random")


def repair_splits(items: Sequence[Item], splits: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Splits in which no group straddles, as near to the given ones as that allows.

    A straddling group goes as a whole to one of the splits that it is in: the one that then lacks
    most of what it had of the group's classes. Groups in one split stay.
    """
    places: dict[str, set[str]] = defaultdict(set)
    members: dict[str, list[int]] = defaultdict(list)
    for index, (group, split) in enumerate(zip(groups, splits, strict=True)):
        places[group].add(split)
        members[group].append(index)
    had: Counter[tuple[str, int]] = Counter()
    has: Counter[tuple[str, int]] = Counter()
    for item, group, split in zip(items, groups, splits, strict=True):
        for label in labels_of(item):
            had[split, label] += 1
            has[split, label] += len(places[group]) == 1
    repaired = list(splits)
    straddling = [group for group in members if len(places[group]) > 1]
    for group in sorted(straddling, key=lambda name: (-len(members[name]), name)):
        count = Counter(label for index in members[group] for label in labels_of(items[index]))

        def lack(split: str, count: Counts = count) -> float:
            kinds = [(split, label) for label in count if had[split, label]]
            return sum(count[k[1]] * (had[k] - has[k]) / had[k] for k in kinds)

        chosen = max(sorted(places[group]), key=lack)
        for index in members[group]:
            repaired[index] = chosen
        for label, number in count.items():
            has[chosen, label] += number
    return repaired


def check_no_class_is_empty(
    splits: Sequence[str], labels: Sequence[Label], classes: Sequence[str]
) -> None:
    """Raises `UserError` where nothing is in a split, or a class has no image to learn from.

    Where labels are many, a split whose images have none is nothing that could be scored on.

    Of a class that validation or test lack nothing is measured, which a finding says.
    """
    if empty := [split for split in SPLITS if split not in splits]:
        raise UserError(f"no readable image in {empty[0]}", hint="add some")
    labelled = {split for split, label in zip(splits, labels, strict=True) if label != ()}
    if bare := [split for split in SPLITS if split not in labelled]:
        raise UserError(f"no image of {bare[0]} has a label", hint="or set data.split=grouped")
    counts: Counter[int] = Counter()
    everywhere: Counter[int] = Counter()
    for split, label in zip(splits, labels, strict=True):
        several = label if isinstance(label, tuple) else (label,)
        everywhere.update(several)
        if split == "train":
            counts.update(several)
    for number, name in enumerate(classes):
        if not counts[number]:
            raise _unlearnt(name, classes, elsewhere=everywhere[number] > 0)


def _unlearnt(name: str, classes: Sequence[str], elsewhere: bool) -> UserError:
    hint = "add images to it, or remove the class"
    hint += ", or have new splits made: data.split=grouped" if elsewhere else ""
    others = [other for other in classes if other != name]
    same = [other for other in others if other.casefold() == name.casefold()]
    if meant := same or alike(name, others):
        hint = f"if it is {meant[0]!r}, name both alike; else {hint}"
    return UserError(f"class {name!r} has no readable image in train", hint=hint)


def limit_per_class(items: Sequence[Item], count: int) -> list[Item]:
    """The `count` images of each class and given split that come first by hash, in their order.

    Of images with several labels: of each set of labels.
    """
    groups: dict[tuple[str | None, Label], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.split, item.label].append(index)
    kept = set()
    for group in groups.values():
        kept.update(sorted(group, key=lambda i: _key(0, items[i].name))[:count])
    return [item for index, item in enumerate(items) if index in kept]


def _key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
