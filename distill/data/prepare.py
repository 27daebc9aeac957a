"""The first stage: list, split, decode and audit a data source; all else reads its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from distill.config import DataConfig, TaskName, ViewsConfig
from distill.data.audit.findings import Finding
from distill.data.audit.listing import Listing, UnsplitError, list_data
from distill.data.audit.splits import check_no_class_is_empty
from distill.data.decode import InputSpec
from distill.data.digest import data_sha256, splits_sha256
from distill.data.sources import SPLITS, Item, Source, open_source, tell
from distill.data.store import Split, Store, open_store
from distill.data.store.stream import stream_split
from distill.data.views.parameters import check_views
from distill.data.workspace import Workspace
from distill.errors import UserError


@dataclass(frozen=True)
class ImageData:
    """Decoded, split images and what is known of them.

    Attributes:
        spec: Size and resize rule of validation and test images, the ones a shipped file states.
        groups: The group of an image by its name: of copies, and as the source says. An image that
            is not there is one by itself.
    """

    location: str
    classes: tuple[str, ...]
    spec: InputSpec
    splits: dict[str, Split]
    findings: tuple[Finding, ...]
    sha256: str
    task: TaskName = "single"
    groups: dict[str, str] = field(default_factory=dict)

    @property
    def train(self) -> Split:
        """Training images, larger than `spec` by the margin of the views."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """The split that everything is chosen on."""
        return self.splits["val"]

    @property
    def test(self) -> Split:
        """The split that is read once, for the table."""
        return self.splits["test"]

    @cached_property
    def splits_sha256(self) -> str:
        """Hash of which split holds which images."""
        return splits_sha256({name: split.names for name, split in self.splits.items()})

    def class_counts(self, split: str) -> list[int]:
        """Images per class, in the order of `classes`; one with several labels counts for each."""
        labels = self.splits[split].labels
        if labels.ndim == 2:
            counts: list[int] = (labels == 1).sum(axis=0).tolist()
            return counts
        counts = np.bincount(labels, minlength=len(self.classes)).tolist()
        return counts

    def num_images(self, split: str) -> int:
        """Images of a split, whatever their labels."""
        return len(self.splits[split].labels)

    def groups_of(self, split: str) -> np.ndarray[Any, np.dtype[np.str_]]:
        """The group of each image of a split: of copies, and as the source says."""
        return np.array([self.groups.get(name, name) for name in self.splits[split].names])

    def describe(self) -> dict[str, Any]:
        """The content of `data.json`."""
        return {
            "location": self.location,
            "sha256": self.sha256,
            "task": self.task,
            "classes": list(self.classes),
            "input_spec": self.spec.model_dump(),
            "counts": {
                name: dict(zip(self.classes, self.class_counts(name), strict=True))
                for name in SPLITS
            },
            "findings": [finding.to_json() for finding in self.findings],
            "splits": {name: list(self.splits[name].names) for name in SPLITS},
        }


def prepare_data(
    location: str,
    data: DataConfig,
    views: ViewsConfig,
    seed: int,
    work: Workspace,
    smoke: bool = False,
) -> ImageData:
    """Opens a data source, decoding it unless that was done before.

    Args:
        smoke: Take only a few images of each class.

    Raises:
        UserError: The source cannot be used; the message says why and what to do.
    """
    source = open_source(location, data.task)
    tell(source, work.progress.say)
    check_views(views, source.classes, data.task)
    listing = list_data(source, data, seed, work, smoke)
    return decode_listing(listing, data, views, work)


def decode_listing(
    listing: Listing,
    data: DataConfig,
    views: ViewsConfig,
    work: Workspace,
) -> ImageData:
    """The images of a listing, decoded; what turns out to be unreadable now is a finding too."""
    spec, source, items = input_spec(data), listing.source, listing.items
    specs = {"train": stored_spec(data, views), "val": spec, "test": spec}
    if data.store == "stream":
        store = decode_partly(listing, specs, work)
    else:
        store = decode(source, items, listing.splits, specs, work)
    kept = [
        (split, item.label)
        for split, item in zip(listing.splits, items, strict=True)
        if item.name not in store.unreadable
    ]
    try:
        check_no_class_is_empty([k[0] for k in kept], [k[1] for k in kept], source.classes)
    except UserError as error:
        raise UnsplitError(error, listing.findings) from None
    known = {path for f in listing.findings if f.kind == "unreadable" for path in f.paths}
    late = tuple(
        Finding(kind="unreadable", severity="warning", paths=(path,), detail=detail)
        for path, detail in sorted(store.unreadable.items())
        if path not in known
    )
    return ImageData(
        source.location,
        source.classes,
        spec,
        store.splits,
        (*listing.findings, *late),
        store.sha256,
        data.task,
        dict(zip((item.name for item in items), listing.groups, strict=True)),
    )


def decode_partly(listing: Listing, specs: dict[str, InputSpec], work: Workspace) -> Store:
    """The store of a listing's images but for those of training, which are decoded when read."""
    source, digests = listing.source, listing.digests()
    pairs = zip(listing.items, listing.splits, strict=True)
    rest = [(item, split) for item, split in pairs if split != "train"]
    store = decode(source, [item for item, _ in rest], [split for _, split in rest], specs, work)
    train = streamed("train", source, listing.readable("train"), digests, specs["train"], work)
    known = listing.prints.unreadable if listing.prints else {}
    unreadable = {**known, **store.unreadable}
    kept = (item for item in listing.items if item.name not in unreadable)
    sha256 = data_sha256((item.name, item.label, digests[item.name]) for item in kept)
    return Store({**store.splits, "train": train}, unreadable, sha256)


def streamed(
    name: str,
    source: Source,
    items: Sequence[Item],
    digests: Mapping[str, str],
    spec: InputSpec,
    work: Workspace,
) -> Split:
    """A split that is decoded when it is read, which is announced.

    Args:
        digests: SHA-256 of the images by name.
    """
    work.progress.say(
        f"{len(items):,} images are decoded whenever they are read: data.store=stream"
    )
    hashes = [digests[item.name] for item in items]
    return stream_split(name, source, items, hashes, spec, work.workers)


def decode(
    source: Source,
    items: Sequence[Item],
    splits: Sequence[str],
    specs: dict[str, InputSpec],
    work: Workspace,
) -> Store:
    """The store of these images, its size announced before it is written."""

    def announce(size: int) -> None:
        where = f"{size / 1e6:,.1f} MB below {work.cache}"
        work.progress.say(f"decoding {len(items):,} images into {where}")

    with work.progress.task("decode", len(items), "images") as task:
        return open_store(
            source, items, splits, specs, work.cache, work.workers, task.advance, announce
        )


def stored_spec(data: DataConfig, views: ViewsConfig) -> InputSpec:
    """How training images are stored: larger by the margin that views are cut from."""
    stored = round(data.size * (1.0 + views.margin))
    return input_spec(data).model_copy(update={"height": stored, "width": stored, "crop_pct": 1.0})


def input_spec(data: DataConfig) -> InputSpec:
    """The preprocessing of validation, test and shipped use."""
    return InputSpec(
        height=data.size,
        width=data.size,
        resize=data.resize,
        crop_pct=data.crop_pct,
        interpolation=data.interpolation,
    )
