"""Experiments behind an address: worked on in a folder here, and kept there.

`--out s3://bucket/mine` is worked on in a folder below `$DISTILLATE_HOME`, which first becomes what
is there, and is put there after every stage and, twice a minute, after an epoch: so another machine
goes on where this one was lost. One machine at a time trains a run of it; teachers' logits are made
by any number of them (`teaching.cache`), and are in no folder before they are read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import TypedDict

from distill.buckets import Bucket
from distill.files import MANIFEST, atomic, downloads, files_below, read_json, write_json
from distill.lock import lock
from distill.storage import Stamp, stamp

MARK = ".mirror.json"
OWN = re.compile(r"cache/(?!logits-[^/]*/cache\.json$)")  # what each machine has for itself


class MarkFile(TypedDict):
    """What is written into the folder.

    Attributes:
        known: Of each file its size and version there, and its size and time here, when both were
            the same.
    """

    address: str
    known: dict[str, list[Any]]


@dataclass(frozen=True)
class Mirror:
    """A folder and the address that it stands for."""

    folder: Path
    bucket: Bucket

    def pull(self) -> None:
        """Makes the folder what is at the address; what changed here alone stays as it is."""
        with self._alone():
            self._pull()

    def push(self, below: str = "") -> None:
        """Puts what changed here at the address; manifests last, so that half never counts.

        Args:
            below: Of which sub-folder, with `/` at its end; empty for all.
        """
        with self._alone():
            self._push(below)

    def _alone(self) -> AbstractContextManager[bool]:
        return lock(self.folder / "mirror.lock")

    def _pull(self) -> None:
        known, there = self._known(), self._there()
        for name in sorted({*there, *known}, key=_manifests_last):
            before, file = known.get(name), self.folder / name
            if there.get(name) == (before[0] if before else None):
                continue
            if name in there:
                self.bucket.fetch(name, file)
                known[name] = (there[name], stamp(file))
            elif before and file.is_file() and stamp(file) == before[1]:
                file.unlink()
                del known[name]
        self._remember(known)

    def _push(self, below: str) -> None:
        known = self._known()
        mine = {name for name in self._mine() if name.startswith(below)}
        before = {name for name in known if name.startswith(below)}
        for name in sorted(before - mine, key=_manifests_last, reverse=True):
            self.bucket.remove(name)
            del known[name]
        changed = {n: now for n in mine if (now := stamp(self.folder / n)) != _here(known.get(n))}
        for name in sorted(changed, key=_manifests_last):
            self.bucket.upload(self.folder / name, name)
        if changed:
            there = self._there(below)
            known |= {name: (there[name], now) for name, now in changed.items() if name in there}
        if changed or before - mine:
            self._remember(known)

    def _there(self, below: str = "") -> dict[str, Stamp]:
        names = self.bucket.names(below)
        return {name: at for name, at in names.items() if not OWN.match(name)}

    def _mine(self) -> Iterable[str]:
        manifests = (f.relative_to(self.folder).as_posix() for f in self.folder.rglob(MANIFEST))
        names = {*files_below(self.folder), *manifests}
        return (n for n in names if not OWN.match(n) and n != MARK and not n.endswith(".lock"))

    def _known(self) -> dict[str, tuple[Stamp, Stamp]]:
        mark: MarkFile = read_json(self.folder / MARK, MarkFile)
        return {n: (Stamp(*row[:2]), Stamp(*row[2:])) for n, row in mark["known"].items()}

    def _remember(self, known: dict[str, tuple[Stamp, Stamp]]) -> None:
        rows = {n: [a.size, a.version, b.size, b.version] for n, (a, b) in known.items()}
        write_json(self.folder / MARK, {"address": self.bucket.address, "known": rows})


def _here(known: tuple[Stamp, Stamp] | None) -> Stamp | None:
    return known[1] if known else None


def _manifests_last(name: str) -> tuple[bool, int, str]:
    """A key: a folder's manifest comes after its files, those of outer folders after inner ones."""
    place = PurePosixPath(name)
    is_manifest = place.name == MANIFEST
    return is_manifest, -len(place.parts) if is_manifest else 0, name


def open_mirror(address: str) -> Path:
    """The folder in which an address is worked on, as it is there now.

    Raises:
        UserError, RunStopped: As `storage.reached`.
    """
    bucket = Bucket(address.rstrip("/"))
    digest = hashlib.sha256(bucket.address.encode()).hexdigest()[:8]
    folder = downloads() / "runs" / f"{PurePosixPath(bucket.address).name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).is_file():
        with atomic(folder / MARK, keep=True) as temporary:
            temporary.write_text(json.dumps({"address": bucket.address, "known": {}}))
    Mirror(folder, bucket).pull()
    return folder


def mirror_of(path: Path) -> Mirror | None:
    """The mirror that a path is in; None for a folder that is nobody's."""
    for folder in (path, *path.parents):
        if (folder / MARK).is_file():
            mark: MarkFile = read_json(folder / MARK, MarkFile)
            return Mirror(folder, Bucket(mark["address"]))
    return None


def publish(folder: Path) -> None:
    """Puts what changed in a folder where it is kept, if it mirrors a bucket."""
    if (mirror := mirror_of(folder)) is not None:
        below = folder.relative_to(mirror.folder).as_posix()
        mirror.push("" if below == "." else f"{below}/")


def bucket_of(folder: Path) -> Bucket | None:
    """The objects that a folder stands for; None for a folder that is nobody's."""
    if (mirror := mirror_of(folder)) is None:
        return None
    return mirror.bucket.below(folder.relative_to(mirror.folder).as_posix())


def address_of(folder: Path) -> str:
    """How a folder is named on a command line: by its address, or by its absolute path."""
    bucket = bucket_of(folder)
    return bucket.address.removesuffix("/.") if bucket else str(folder.resolve())
