"""The first stage: list, split, decode and audit a data source; all else reads its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import DataConfig, ViewsConfig
from distill.data.decode import InputSpec
from distill.data.draws import permutation
from distill.data.sources import SPLITS, Item, Source, open_source
from distill.data.splits import assign_splits, check_no_class_is_empty, limit_per_class
from distill.data.store import Split, Store, open_store, store_bytes
from distill.data.view_draws import check_views
from distill.progress import Progress

SMOKE_IMAGES = 12


@dataclass(frozen=True)
class ImageData:
    """Decoded, split images and what is known of them.

    Attributes:
        spec: Size and resize rule of validation and test images, the ones a shipped file states.
        findings: `{kind, severity, paths, detail}` of everything odd.
    """

    location: str
    classes: tuple[str, ...]
    spec: InputSpec
    splits: dict[str, Split]
    findings: tuple[dict[str, Any], ...]
    sha256: str

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

    def class_counts(self, split: str) -> list[int]:
        """Images per class, in the order of `classes`."""
        counts: list[int] = np.bincount(
            self.splits[split].labels, minlength=len(self.classes)
        ).tolist()
        return counts

    def describe(self) -> dict[str, Any]:
        """The content of `data.json`."""
        return {
            "location": self.location,
            "sha256": self.sha256,
            "classes": list(self.classes),
            "input_spec": self.spec.model_dump(),
            "counts": {
                name: dict(zip(self.classes, self.class_counts(name), strict=True))
                for name in SPLITS
            },
            "findings": list(self.findings),
            "splits": {name: list(self.splits[name].names) for name in SPLITS},
        }


def prepare_data(
    location: str,
    data: DataConfig,
    views: ViewsConfig,
    seed: int,
    cache: Path,
    workers: int,
    progress: Progress,
    smoke: bool = False,
) -> ImageData:
    """Opens a data source, decoding it into `cache` unless that was done before.

    Args:
        smoke: Take only a few images of each class.

    Raises:
        UserError: The source cannot be used; the message says why and what to do.
    """
    source = open_source(location)
    check_views(views, source.classes)
    items = limit_per_class(source.items, SMOKE_IMAGES) if smoke else list(source.items)
    splits = assign_splits(items, source.classes, data, seed)
    spec = input_spec(data)
    specs = {"train": stored_spec(data, views), "val": spec, "test": spec}
    store = decode(source, items, splits, specs, cache, workers, progress)
    kept = [(name, label) for name, s in store.splits.items() for label in s.labels]
    check_no_class_is_empty([k[0] for k in kept], [int(k[1]) for k in kept], source.classes)
    findings = _findings(store, source.ignored, source.classes)
    return ImageData(source.location, source.classes, spec, store.splits, findings, store.sha256)


def decode(
    source: Source,
    items: Sequence[Item],
    splits: Sequence[str],
    specs: dict[str, InputSpec],
    cache: Path,
    workers: int,
    progress: Progress,
) -> Store:
    """The store of these images, its size announced before it is written."""
    megabytes = store_bytes(splits, specs) / 1e6
    title = f"decode {len(items):,} images to {megabytes:,.0f} MB"
    with progress.task(title, len(items), "images") as task:
        return open_store(source, items, splits, specs, cache, workers, task.advance)


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


def _findings(
    store: Store, ignored: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = [
        {"kind": "unreadable", "severity": "warning", "paths": [path], "detail": detail}
        for path, detail in sorted(store.unreadable.items())
    ]
    if ignored:
        detail = "not an image by its ending"
        found.append(
            {"kind": "ignored", "severity": "info", "paths": list(ignored), "detail": detail}
        )
    counts = Counter(store.splits["train"].labels.tolist())
    most, fewest = max(counts.values()), min(counts.values())
    if most >= 3 * fewest:
        detail = ", ".join(f"{name} {counts[label]}" for label, name in enumerate(classes))
        found.append(
            {"kind": "imbalance", "severity": "warning", "paths": [], "detail": f"train: {detail}"}
        )
    return tuple(found)


def epoch_batches(
    count: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Sample indices of each training batch of an epoch, on one of `world` ranks.

    The shuffle is a pure function of (seed, epoch). Every rank gets equally many batches of equal
    size, as gradient averaging needs: what does not fill a last batch on all ranks waits for
    another epoch's shuffle, unless there is not even one full batch.
    """
    order = permutation(seed, "shuffle", epoch, count)
    batch = min(batch_size, max(1, count // world))
    for start in range(0, count - batch * world + 1, batch * world):
        chunk = order[start : start + batch * world]
        yield chunk[rank * batch : (rank + 1) * batch]


def num_batches(count: int, batch_size: int, world: int = 1) -> int:
    """How many batches `epoch_batches` yields."""
    batch = min(batch_size, max(1, count // world))
    return count // (batch * world)
