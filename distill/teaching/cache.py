"""Teacher logits on disk: computed once per view of an image, read by every student after that.

Of image i the teacher sees view v, which is a pure function of (seed, i, v); so its logits can be
kept and are exact for the same view. A cache is a folder named by the hash of all that its content
depends on, which `cache.json` spells out, and a file per shard: one view of a range of images.
A shard that is not whole does not count; `cache_build` writes them.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypedDict

from distill.buckets import Bucket
from distill.data.store import is_cut_short
from distill.errors import RunStopped
from distill.files import atomic, checksum
from distill.mirror import bucket_of
from distill.teaching.answers import Answers

FORMAT = 3
MAX_OPEN = 256  # shards that a reader keeps open; each costs a file descriptor
CHECKSUM = 4  # bytes of it at the end of a shard
SHARD_ROWS = 4096  # the most work that a kill can lose: seconds for a small teacher
MAX_VALUE = 6e4  # float16 ends at 65,504


class CacheFile(TypedDict):
    """What `cache.json` has."""

    identity: dict[str, Any]
    teacher: str
    count: int


class Shard(NamedTuple):
    """Images `start` to `stop` (exclusive) in one view."""

    view: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """Its file in the cache's folder."""
        return f"view-{self.view:04d}-{self.start:09d}.npy"


@dataclass(frozen=True)
class TeacherCache:
    """The logits of one teacher for some views of the training images.

    Attributes:
        identity: All that the logits depend on; its hash is the folder's name.
        count: Images.
        num_classes: Logits per image.
        top_k: Logits kept per image, the largest ones; 0 for all.
        features: Pooled features kept per image beside them, for strategies that ask; 0 for none.
        bucket: Where shards are kept; they are fetched into the folder when they are read. None for
            the folder itself.
    """

    folder: Path
    identity: dict[str, Any]
    name: str
    count: int
    num_classes: int
    top_k: int
    features: int = 0
    bucket: Bucket | None = None

    def empty_rows(self, rows: int) -> NDArray[Any]:
        """What is stored of one view of this many images.

        Either all logits, or the `top_k` largest with their classes and, as one more logit, what
        each of the other classes would have if they shared their probability evenly.
        """
        if not self.top_k and not self.features:
            return np.empty((rows, self.num_classes), dtype=np.float16)
        fields: list[tuple[str, type, tuple[int]]]
        fields = [("logits", np.float16, (self.top_k + 1 if self.top_k else self.num_classes,))]
        if self.top_k:
            index = np.uint16 if self.num_classes <= 2**16 else np.uint32
            fields.append(("classes", index, (self.top_k,)))
        if self.features:
            fields.append(("features", np.float16, (self.features,)))
        return np.empty(rows, dtype=fields)

    def shards(self, views: Sequence[int]) -> Iterator[Shard]:
        """All shards of these views."""
        for view in views:
            for start in range(0, self.count, SHARD_ROWS):
                yield Shard(view, start, min(start + SHARD_ROWS, self.count))

    def open_shard(self, shard: Shard) -> NDArray[Any] | None:
        """The memory-mapped rows of a shard; None if it is missing or not whole."""
        rows = self._open_file(shard)
        if rows is None and self.bucket is not None:
            self.bucket.fetch(shard.file_name, self.folder / shard.file_name)
            rows = self._open_file(shard)
        return rows

    def _open_file(self, shard: Shard) -> NDArray[Any] | None:
        expected = self.empty_rows(shard.stop - shard.start)
        try:
            rows: NDArray[Any] = np.load(self.folder / shard.file_name, mmap_mode="r")
        except (FileNotFoundError, ValueError, EOFError):
            return None
        fits = rows.shape == expected.shape and rows.dtype == expected.dtype
        return rows if fits else None

    def write_shard(self, shard: Shard, rows: NDArray[Any]) -> None:
        """Puts a shard in its place, its checksum behind what numpy reads of the file.

        One that is there already and whole stays: whoever was first has published it.

        Raises:
            RunStopped: The disk is full.
        """
        place, content = self.folder / shard.file_name, self._content(rows)
        if self.bucket is not None:
            place.unlink(missing_ok=True)
            if not self.bucket.create(shard.file_name, content):
                if self.is_whole(shard):  # somebody else's, which is here now
                    return
                self.bucket.write(shard.file_name, content)
        is_damaged = place.exists() and not self.is_whole(shard)
        with atomic(place, keep=not is_damaged) as temporary:
            temporary.write_bytes(content)

    def _content(self, rows: NDArray[Any]) -> bytes:
        file = io.BytesIO()
        np.save(file, rows)
        file.write(checksum(rows).to_bytes(CHECKSUM, "little"))
        return file.getvalue()

    def is_whole(self, shard: Shard) -> bool:
        """Whether a shard is there, every bit of it as it was written; reads all of it."""
        rows = self.open_shard(shard)
        if rows is None:
            return False
        with (self.folder / shard.file_name).open("rb") as file:
            file.seek(-CHECKSUM, os.SEEK_END)
            return int.from_bytes(file.read(), "little") == checksum(rows)

    def missing(self, views: Sequence[int]) -> list[Shard]:
        """Shards of these views that are still to be computed."""
        return self.absent(self.shards(views))

    def absent(self, shards: Iterable[Shard], by_content: bool = False) -> list[Shard]:
        """Those of the shards that are still to be computed.

        Args:
            by_content: Read them, and count those with a wrong bit in them. What is in a bucket
                came there whole, and is known by its size.
        """
        if self.bucket is None:
            is_there = self.is_whole if by_content else lambda one: self.open_shard(one) is not None
            return [shard for shard in shards if not is_there(shard)]
        shards = list(shards)
        alone = shards[0].file_name if len(shards) == 1 else "view-"
        there, sizes = self.bucket.names(alone), dict[int, int]()

        def size(shard: Shard) -> int:
            rows = shard.stop - shard.start
            if rows not in sizes:
                sizes[rows] = len(self._content(self.empty_rows(rows)))
            return sizes[rows]

        return [s for s in shards if (at := there.get(s.file_name)) is None or at.size != size(s)]

    def pack(self, answers: Answers) -> NDArray[Any]:
        """What a teacher says of some images as it is stored."""
        logits = _in_range(answers.logits)
        rows = self.empty_rows(len(logits))
        if rows.dtype.names is None:
            rows[...] = logits.numpy()
            return rows
        if self.features:
            assert answers.features is not None
            rows["features"] = _in_range(answers.features).numpy()
        if not self.top_k:
            rows["logits"] = logits.numpy()
            return rows
        values, classes = logits.topk(self.top_k, dim=1)
        others = logits.scatter(1, classes, -torch.inf).logsumexp(dim=1, keepdim=True)
        share = others - math.log(self.num_classes - self.top_k)
        rows["logits"] = torch.cat([values, share], dim=1).numpy()
        rows["classes"] = classes.numpy()
        return rows

    def unpack(self, rows: NDArray[Any]) -> Answers:
        """Stored rows as they were said, float32."""
        if rows.dtype.names is None:
            return Answers(_wide(rows))
        values = _wide(rows["logits"])
        features = _wide(rows["features"]) if self.features else None
        if not self.top_k:
            return Answers(values, features)
        classes = torch.from_numpy(rows["classes"].astype(np.int64))
        logits = values[:, -1:].expand(-1, self.num_classes).clone()
        return Answers(logits.scatter_(1, classes, values[:, :-1]), features)


def _in_range(values: Tensor) -> Tensor:
    """On the CPU, and no larger than float16 can tell."""
    return values.float().clamp(-MAX_VALUE, MAX_VALUE).cpu()


def _wide(rows: NDArray[Any]) -> Tensor:
    return torch.from_numpy(rows.astype(np.float32))


def complete_views(cache: TeacherCache) -> list[int]:
    """Numbers of the views of which every shard is there."""
    numbers = {int(name.split("-")[1]) for name in shard_sizes(cache.folder)}
    return [view for view in sorted(numbers) if not cache.missing([view])]


def shard_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each shard of a cache, by the name of its file, wherever they are kept."""
    if (bucket := bucket_of(folder)) is not None:
        return {name: at.size for name, at in bucket.names("view-").items()}
    return {file.name: file.stat().st_size for file in sorted(folder.glob("view-*.npy"))}


class CacheReader:
    """Reads a cache by image and view, keeping the shards that it read last open."""

    def __init__(self, cache: TeacherCache) -> None:
        self._cache = cache
        self._open: dict[Shard, NDArray[Any]] = {}

    def answers(self, ids: NDArray[np.int64], view: int | NDArray[np.int64]) -> Answers:
        """What the teacher said, float32.

        Args:
            view: One for all images, or `(batch,)`.

        Raises:
            RunStopped: A shard is missing or was cut short.
        """
        places = np.stack([np.broadcast_to(view, ids.shape), ids // SHARD_ROWS])
        needed, owners = np.unique(places, axis=1, return_inverse=True)
        rows = self._cache.empty_rows(len(ids))
        for owner, (number, place) in enumerate(needed.T.tolist()):
            in_shard = owners.reshape(-1) == owner
            start = place * SHARD_ROWS
            stop = min(start + SHARD_ROWS, self._cache.count)
            rows[in_shard] = self._rows(Shard(number, start, stop))[ids[in_shard] - start]
        return self._cache.unpack(rows)

    def _rows(self, shard: Shard) -> NDArray[Any]:
        """The mapped rows of a shard, which is the last one to be closed again."""
        rows = self._open.pop(shard, None)
        if rows is None:
            rows = self._cache.open_shard(shard)
            if len(self._open) >= MAX_OPEN:
                del self._open[next(iter(self._open))]
        if rows is None or is_cut_short(rows):
            raise self._lost(shard)
        self._open[shard] = rows
        return rows

    def _lost(self, shard: Shard) -> RunStopped:
        return RunStopped(
            "these logits of a teacher are missing or cut short",
            str(self._cache.folder / shard.file_name),
            "repeat the command, which computes them again and continues",
        )
