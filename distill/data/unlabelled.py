"""Images without labels: a teacher's opinion is all that a student learns from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distill.config import DataConfig, ViewsConfig
from distill.data.audit.fingerprints import Fingerprints, joined, take_fingerprints
from distill.data.audit.listing import Listing, kept_copies, readable_few
from distill.data.prepare import decode, stored_spec, streamed
from distill.data.sources import Item, Source, open_unlabelled, tell
from distill.data.store import Split
from distill.data.workspace import Workspace
from distill.errors import UserError

SMOKE_IMAGES = 24
EACH_OTHER = "each other"
COPIES_OF = ("test", "val", "train", EACH_OTHER)  # the worst first


def prepare_unlabelled(
    location: str,
    listing: Listing,
    data: DataConfig,
    views: ViewsConfig,
    work: Workspace,
    smoke: bool = False,
) -> tuple[Split, dict[str, Any]]:
    """Decodes unlabelled images to the size of the training images.

    Copies of labelled images are left out, equal or not, as `check` finds them: in `train` they are
    there already, and of `val` and `test` a student must not know anything, not even a teacher's
    opinion. Of each other, equal files are left out.

    Args:
        listing: The labelled images.

    Returns:
        The images, labelled -1, and what is to be said of them in `data.json`.

    Raises:
        UserError: Nothing there, or nothing left.
    """
    source = replace(open_unlabelled(location), classes=listing.classes, task=listing.source.task)
    tell(source, work.progress.say)
    items = readable_few(source, work, SMOKE_IMAGES) if smoke else list(source.items)
    known = listing.prints or _look(listing.source, listing.items, work)
    prints = _look(source, items, work)
    groups = kept_copies(joined(known, prints), None, work.cache)
    of = copies_of(groups, listing.splits, prints.sha256)
    fresh = [i for i, item in zip(items, of, strict=True) if item is None]
    new = [item for item in fresh if item.name not in prints.unreadable]
    counts = Counter(split for split in of if split)
    left_out = {split: counts[split] for split in COPIES_OF if counts[split]}
    parts = ", ".join(f"{count:,} of {split}" for split, count in left_out.items())
    work.progress.say(
        f"{len(new):,} unlabelled images, {sum(counts.values()):,} left out as copies"
        + (f": {parts}" if parts else "")
    )
    if not new:
        what = f"none of its {len(items)} images is new: {len(prints.unreadable)} cannot be read"
        raise UserError(f"{what}, the rest is in the labelled data", location, "see --unlabelled")
    spec, unreadable = stored_spec(data, views), dict(prints.unreadable)
    if data.store == "stream":
        digests = dict(zip(prints.names, prints.sha256, strict=True))
        split = streamed("unlabelled", source, new, digests, spec, work)
    else:
        specs = dict.fromkeys(("train", "val", "test"), spec)
        store = decode(source, new, ["train"] * len(new), specs, work)
        split, unreadable = store.splits["train"], {**unreadable, **store.unreadable}
    described = {
        "location": source.location,
        "count": len(split.names),
        "left_out_as_known": sum(counts.values()),
        "left_out": left_out,
        "unreadable": unreadable,
    }
    return split, described


def _look(source: Source, items: Sequence[Item], work: Workspace) -> Fingerprints:
    with work.progress.task(f"look at {len(items):,} images", len(items), "images") as task:
        return take_fingerprints(source, items, work.cache, work.workers, task.advance)


def copies_of(
    groups: Sequence[str], splits: Sequence[str], sha256: Sequence[str]
) -> list[str | None]:
    """What each unlabelled image is a copy of: a split, `each other`, or None for nothing.

    Copies of copies count. An image that shows the same as another unlabelled one, but is not the
    same file, is no copy.

    Args:
        groups: Name of each image's group of copies, the labelled images first.
        splits: Of the labelled images.
        sha256: Of the unlabelled ones, in hex; empty where a file cannot be read.
    """
    worst: dict[str, str] = {}
    for group, split in zip(groups, splits, strict=False):
        worst[group] = min(worst.get(group, split), split, key=COPIES_OF.index)
    origins: list[str | None] = []
    seen: set[str] = set()
    for group, digest in zip(groups[len(splits) :], sha256, strict=True):
        again = EACH_OTHER if digest and digest in seen else None
        origins.append(worst.get(group, again))
        seen.add(digest)
    return origins
