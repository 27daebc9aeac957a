"""Images that are held out as a whole, so that the test split is unlike the training split."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from distill.data.audit.splits import labels_of
from distill.data.sources import SPLIT_NAMES, Item, Source
from distill.errors import UserError
from distill.files import read_json, write_json

CLUSTERS, FEWEST = 12, 3  # of a class: one for each split at least
FULL = 5  # groups of images that a cluster has on average at least
Features = Callable[[Source, Sequence[Item]], NDArray[np.float32]]


def kept_units(
    source: Source,
    items: Sequence[Item],
    groups: Sequence[str],
    digests: Sequence[str],
    seed: int,
    embed: Features,
    cache: Path,
) -> list[str]:
    """Names of the units that images are held out by; looking at all of them is done once.

    Args:
        groups: Name of the group of each item; a unit holds whole ones.
        digests: SHA-256 of each image.
        embed: Gives unit vectors `(n, d)`.
    """
    labels = [[int(label) for label in labels_of(item)] for item in items]
    described = [seed, source.classes, [i.name for i in items], list(groups), list(digests), labels]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
    place = cache / f"units-{key}.json"
    with contextlib.suppress(UserError, KeyError):  # absent, or damaged: made anew
        known: list[str] = read_json(place, dict[str, list[str]])["units"]
        if len(known) == len(items):
            return known
    units = units_of(source, items, groups, seed, lambda: embed(source, items))
    write_json(place, {"units": units})
    return units


def units_of(
    source: Source,
    items: Sequence[Item],
    groups: Sequence[str],
    seed: int,
    features: Callable[[], NDArray[np.float32]],
) -> list[str]:
    """The unit of each image: its folder below its class where there are several, or a cluster.

    Clusters are those of k-means over a class's images, or over all where labels are many, by the
    seed.
    """
    first = dict(zip(reversed(groups), reversed(range(len(groups))), strict=True))
    pools: dict[str, list[int]] = defaultdict(list)
    for index in sorted(first.values()):
        label = labels_of(items[index])[0]
        pools["" if source.task == "multi" else source.classes[label]].append(index)
    vectors: NDArray[np.float32] | None = None
    unit_of: dict[int, str] = {}
    for name, ids in pools.items():
        parts = [_folder(items[index], source.classes) for index in ids]
        if len(set(parts)) < FEWEST:
            vectors = features() if vectors is None else vectors
            parts = [f"cluster {number}" for number in _clusters(vectors[ids], seed)]
        unit_of |= {index: f"{name}: {part}" for index, part in zip(ids, parts, strict=True)}
    return [unit_of[first[group]] for group in groups]


def _folder(item: Item, classes: Sequence[str]) -> str:
    """The folder of an image below that of its class and its split, which is its source's."""
    folders = PurePosixPath(item.name).parent.parts
    parts = [part for part in folders if item.split not in (part, SPLIT_NAMES.get(part.lower()))]
    for name in (classes[label] for label in labels_of(item) if label >= 0):
        if name in parts:
            parts = parts[parts.index(name) + 1 :]
    return "/".join(parts)


def _clusters(vectors: NDArray[np.float32], seed: int) -> list[int]:
    from sklearn.cluster import KMeans

    count = min(len(vectors), CLUSTERS, max(FEWEST, len(vectors) // FULL))
    found: list[int] = KMeans(count, n_init=3, random_state=seed).fit(vectors).labels_.tolist()
    return found
