"""The look at a data source before anything is decoded to size: fingerprints, groups and splits."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import DataConfig
from distill.data.audit.duplicates import copy_groups, join_groups
from distill.data.audit.findings import Finding, advice, audit
from distill.data.audit.fingerprints import Fingerprints, take_fingerprints
from distill.data.audit.shift import Features, kept_units
from distill.data.audit.splits import assign_splits, labels_of, limit_per_class
from distill.data.decode import InputSpec
from distill.data.digest import data_sha256
from distill.data.sources import SPLITS, Item, Source
from distill.data.workspace import Workspace
from distill.errors import UserError
from distill.files import read_json, write_json

SMOKE_IMAGES = 12
RULES = 1  # of who is a copy of whom; what was found by other rules is not read


@dataclass(frozen=True)
class Listing:
    """A data source, and in which group and split each of its images is.

    Attributes:
        copies: Name of each item's group of copies.
        groups: Name of the group that it has to be split with: of copies, and as the source says.
        prints: None where nobody looked, as the source has no copies.
    """

    source: Source
    items: tuple[Item, ...]
    copies: tuple[str, ...]
    groups: tuple[str, ...]
    splits: tuple[str, ...]
    prints: Fingerprints | None
    findings: tuple[Finding, ...]

    @property
    def location(self) -> str:
        """Where the images are."""
        return self.source.location

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.source.classes

    def class_counts(self, split: str) -> list[int]:
        """Images per class, in the order of `classes`; one with several labels counts for each."""
        counts = Counter(label for item in self.readable(split) for label in labels_of(item))
        return [counts[label] for label in range(len(self.classes))]

    def num_images(self, split: str) -> int:
        """Images of a split that can be read, as far as that is known."""
        return len(self.readable(split))

    def readable(self, split: str) -> list[Item]:
        """The images of a split that can be read, as far as that is known."""
        bad = self.prints.unreadable if self.prints else {}
        pairs = zip(self.items, self.splits, strict=True)
        return [item for item, of in pairs if of == split and item.name not in bad]

    def digests(self) -> dict[str, str]:
        """SHA-256 of each image by its name; empty where nobody looked."""
        prints = self.prints
        return dict(zip(prints.names, prints.sha256, strict=True)) if prints else {}

    def advice(self) -> list[str]:
        """What to do about the findings, line by line."""
        files = self.source.root is not None
        return advice(self.findings, self.location, files, self.source.task)

    def describe(self, spec: InputSpec) -> dict[str, Any]:
        """The content of `data.json`, as `ImageData.describe` has it, before anything is decoded.

        `sha256` is absent where nobody looked at the images.
        """
        members = {split: self.readable(split) for split in SPLITS}
        record: dict[str, Any] = {
            "location": self.location,
            "task": self.source.task,
            "classes": list(self.classes),
            "input_spec": spec.model_dump(),
            "counts": {
                split: dict(zip(self.classes, self.class_counts(split), strict=True))
                for split in SPLITS
            },
            "findings": [finding.to_json() for finding in self.findings],
            "splits": {split: [item.name for item in items] for split, items in members.items()},
        }
        if digests := self.digests():
            listed = (item for items in members.values() for item in items)
            record["sha256"] = data_sha256((i.name, i.label, digests[i.name]) for i in listed)
        return record

    def rows(self) -> list[dict[str, Any]]:
        """The rows of a manifest, of the images that can be read."""
        digests, bad = self.digests(), self.prints.unreadable if self.prints else {}
        rows = []
        for item, group, split in zip(self.items, self.groups, self.splits, strict=True):
            names = tuple(self.classes[label] for label in labels_of(item) if label >= 0)
            if item.name not in bad:
                rows.append(
                    {
                        "path": item.name,
                        "label": names if self.source.task == "multi" else names[0],
                        "split": split,
                        "group": group,
                        "sha256": digests.get(item.name),
                    }
                )
        return rows


class UnsplitError(UserError):
    """Images that cannot be split, and what is odd about them, which may be why."""

    def __init__(self, error: UserError, findings: Sequence[Finding]) -> None:
        super().__init__(error.what, error.where, error.hint)
        self.findings = findings


def readable_few(source: Source, work: Workspace, count: int) -> list[Item]:
    """So many images of each class, others in place of those that cannot be read."""
    left = list(source.items)
    while True:
        few = limit_per_class(left, count)
        if source.distinct:
            return few
        prints = take_fingerprints(source, few, None, work.workers, lambda done: None)
        if not prints.unreadable or len(prints.unreadable) == len(left):
            return few
        left = [item for item in left if item.name not in prints.unreadable]


def list_data(
    source: Source,
    data: DataConfig,
    seed: int,
    work: Workspace,
    smoke: bool = False,
    features: Features | None = None,
    always: bool = False,
    embed: Features | None = None,
) -> Listing:
    """Looks at every image of a source, finds copies, and decides on the splits.

    Args:
        smoke: Take only a few images of each class.
        features: What copies are compared by beside pixels.
        always: Look at the images even of a source without copies.
        embed: What images are told apart by where whole kinds of them are held out.

    Raises:
        UnsplitError: It cannot be split; says why, what to do, and what else is wrong with it.
    """
    items = readable_few(source, work, SMOKE_IMAGES) if smoke else list(source.items)
    prints, copies = None, [item.name for item in items]
    source_groups, shifted = [item.group for item in items], data.split == "shifted"
    if always or shifted or data.store == "stream" or not source.distinct:
        with work.progress.task(f"look at {len(items):,} images", len(items), "images") as task:
            prints = take_fingerprints(source, items, work.cache, work.workers, task.advance)
        vectors = features(source, items) if features else None
        copies = kept_copies(prints, vectors, work.cache)
    groups = join_groups([item.name for item in items], copies, source_groups)
    units: list[str] | None = None if data.split == "random" else groups
    if shifted:
        assert prints is not None
        assert embed is not None, "a caller that has no network for it"
        units = kept_units(source, items, groups, prints.sha256, seed, embed, work.cache)
    try:
        splits = assign_splits(items, source.classes, data, seed, units)
    except UserError as error:
        given = [item.split or "train" for item in items]
        found = audit(source, items, given, prints, copies) if prints else ()
        if any(finding.kind == "blank" and finding.severity == "error" for finding in found):
            error = UserError(error.what, error.where, "look at the pictures: they are blank")
        raise UnsplitError(error, found) from None
    findings = audit(source, items, splits, prints, copies) if prints else ()
    columns = (tuple(copies), tuple(groups), tuple(splits))
    return Listing(source, tuple(items), *columns, prints, findings)


def kept_copies(
    prints: Fingerprints, features: NDArray[np.float32] | None, cache: Path
) -> list[str]:
    """Names of the groups of copies; comparing all pairs takes its time, so it is done once."""
    digest = hashlib.sha256(json.dumps([RULES, prints.names, prints.sha256]).encode())
    if features is not None:
        digest.update(features.tobytes())
    place = cache / f"copies-{digest.hexdigest()[:16]}.json"
    with contextlib.suppress(UserError, KeyError):  # absent, or damaged: compared anew
        known: list[str] = read_json(place, dict[str, list[str]])["copies"]
        if len(known) == len(prints.names) and set(known) <= set(prints.names):
            return known
    copies = copy_groups(prints, features)
    write_json(place, {"copies": copies})
    return copies
