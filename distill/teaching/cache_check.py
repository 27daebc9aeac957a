"""Whether workers that share an experiment mean the same caches.

A cache is named by all that it depends on, so a worker with another version of the code, or with
other options, would fill one of its own beside that of the others. Alone that is right, and said;
among many it is a mistake, and nobody reads a worker's log until the bill comes.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from distill.data.decode import DECODING_VERSION
from distill.data.views.pixels import VIEWS_VERSION
from distill.errors import UserError
from distill.files import differing_keys, read_json
from distill.teaching.cache import FORMAT, SHARD_ROWS, CacheFile, TeacherCache, shard_sizes

SAME_MODEL = "teacher.weights_sha256"
ANSWERS = "teacher.answers"
ALIKE = "give all workers the same version and options, or remove this folder"


def code_versions() -> dict[str, Any]:
    """What a cache's identity has of the code, whatever the teacher and the images are."""
    versions = {"decoding": DECODING_VERSION, "views": VIEWS_VERSION}
    return {"format": FORMAT, "shard_rows": SHARD_ROWS, "versions": versions}


def check_version(folder: Path) -> None:
    """Raises `UserError` for a cache in a folder of caches that another version of the code began.

    Args:
        folder: May be missing.
    """
    now = code_versions()
    for place, stored in begun(folder).items():
        identity = stored["identity"]
        changed = differing_keys({key: identity.get(key) for key in now}, now)
        if changed:
            what = f"this cache is another version's: {_differences(identity, now, changed)}"
            raise UserError(what, str(place), "install that version, or remove this folder")


def check_alike(caches: Collection[TeacherCache], views: int) -> None:
    """Raises `UserError` where others are at work on what would be another cache to this worker.

    They are where only what the teacher answers differs, or where theirs is not complete and ours
    not begun. Caches that are complete, or of other weights, are left from earlier.

    Args:
        caches: All that the recipe asks for, in one folder.
        views: Of each image.
    """
    ours = {cache.folder for cache in caches}
    known = begun(next(iter(caches)).folder.parent)
    names = {cache.name for cache in caches if cache.folder in known}
    for place, stored in known.items():
        rivals = [cache for cache in caches if cache.name == stored["teacher"]]
        if place in ours or not rivals or stored["teacher"] in names:
            continue
        differences = (differing_keys(stored["identity"], cache.identity) for cache in rivals)
        changed = min(differences, key=len)
        shards = views * math.ceil(stored["count"] / SHARD_ROWS)
        is_unfinished = len(shard_sizes(place)) < shards
        if SAME_MODEL not in changed and (changed == [ANSWERS] or is_unfinished):
            what = f"others began this cache of {stored['teacher']} with other {', '.join(changed)}"
            raise UserError(what, str(place), ALIKE)


def begun(folder: Path) -> dict[Path, CacheFile]:
    """What the caches in a folder are of, by their folders."""
    return {f.parent: read_json(f, CacheFile) for f in sorted(folder.glob("logits-*/cache.json"))}


def _differences(old: dict[str, Any], new: dict[str, Any], keys: list[str]) -> str:
    """Such as `versions.views is 1, here 2`."""
    return ", ".join(f"{key} is {_value(old, key)}, here {_value(new, key)}" for key in keys)


def _value(table: Any, key: str) -> Any:
    for part in key.split("."):
        table = table.get(part) if isinstance(table, dict) else None
    return table
