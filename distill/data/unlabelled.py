"""Images without labels: a teacher's opinion is all that a student learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.config import DataConfig, ViewsConfig
from distill.data.audit.splits import limit_per_class
from distill.data.prepare import ImageData, decode, stored_spec
from distill.data.sources import open_unlabelled
from distill.data.store import Split, subset
from distill.errors import UserError
from distill.progress import Progress

SMOKE_IMAGES = 24


def prepare_unlabelled(
    location: str,
    known: ImageData,
    data: DataConfig,
    views: ViewsConfig,
    cache: Path,
    workers: int,
    progress: Progress,
    smoke: bool = False,
) -> tuple[Split, dict[str, Any]]:
    """Decodes unlabelled images to the size of the training images.

    Files whose content is also in the labelled data are left out: in `train` they are there
    already, and of `val` and `test` a student must not know anything, not even a teacher's opinion.

    Returns:
        The images, labelled -1, and what is to be said of them in `data.json`.

    Raises:
        UserError: Nothing there, or nothing left.
    """
    source = replace(open_unlabelled(location), classes=known.classes, task=known.task)
    items = limit_per_class(source.items, SMOKE_IMAGES) if smoke else list(source.items)
    specs = dict.fromkeys(("train", "val", "test"), stored_spec(data, views))
    store = decode(source, items, ["train"] * len(items), specs, cache, workers, progress)
    found = store.splits["train"]
    taken = {digest for split in known.splits.values() for digest in split.digests}
    rows = []
    for row, digest in enumerate(found.digests):
        if digest not in taken:
            taken.add(digest)
            rows.append(row)
    described = {
        "location": source.location,
        "count": len(rows),
        "left_out_as_known": len(found.digests) - len(rows),
        "unreadable": store.unreadable,
    }
    progress.say(
        f"{len(rows):,} unlabelled images, {described['left_out_as_known']} left out, as "
        "they are copies of each other or of labelled ones"
    )
    if not rows:
        what = f"none of its {len(items)} images is new: {len(store.unreadable)} cannot be read"
        raise UserError(f"{what}, the rest is in the labelled data", location, "see --unlabelled")
    return subset(found, np.asarray(rows, dtype=np.int64)), described
