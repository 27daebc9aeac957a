"""Training images by number, labelled ones first: what training and the teacher cache both read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.config import ViewsConfig
from distill.data.decode import DECODING_VERSION
from distill.data.store import Split
from distill.data.views.draws import Draws, Floats, permutation
from distill.data.views.parameters import moves
from distill.data.views.pixels import VIEWS_VERSION, make_views

Ids = NDArray[np.int64]
Asked = TypeVar("Asked")
Read = TypeVar("Read")
UNLABELLED = -1
WINDOW = 16  # files whose images are mixed where there are many; copies of so many are kept


class Batch(NamedTuple):
    """What one training step sees.

    Attributes:
        ids: Image numbers `(batch,)`.
        view: Number of the view, or of each image's view `(batch,)`.
        images: float32 `(batch, 3, size, size)` in [0, 1].
        labels: Class indices `(batch,)` or probabilities `(batch, num_classes)`.
        weights: Weight of each label, `(batch,)` or of its cells `(batch, num_classes)`; 0 for
            images without one; None for all 1.
        share: What is left of each image after MixUp with the one before it; None without MixUp.
        repeats: How often each image was drawn earlier in the epoch; None where it never was.
    """

    ids: Ids
    view: int | Ids
    images: Tensor
    labels: Tensor
    weights: Tensor | None = None
    share: float | None = None
    repeats: Ids | None = None


def split_sha256(split: Split) -> str:
    """SHA-256 of the order, the files' contents and the stored size of a split's images."""
    key = json.dumps([split.names, split.digests, (len(split.labels), *split.stored.shape[1:])])
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class TrainingImages:
    """Splits joined end to end, seen through views.

    Attributes:
        splits: The training split and, if there are any, unlabelled images of the same size.
        classes: Names of the classes, in the order of the labels.
        size: Height and width of a view, in pixels.
    """

    splits: tuple[Split, ...]
    classes: tuple[str, ...]
    views: ViewsConfig
    seed: int
    size: int

    @cached_property
    def labels(self) -> Ids:
        """Labels as `Split.labels` has them, `UNLABELLED` where there are none."""
        return np.concatenate([split.labels for split in self.splits])

    @cached_property
    def shards(self) -> Ids | None:
        """Number of the file `(n,)` that each image is in, where they are better read together."""
        numbers, first = list[Ids](), 0
        for split in self.splits:
            known = np.zeros(len(split.labels), np.int64) if split.shards is None else split.shards
            numbers.append(known + first)
            first += int(known.max(initial=-1)) + 1
        return None if all(s.shards is None for s in self.splits) else np.concatenate(numbers)

    @cached_property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Which images `(n,)` have labels, be it to say that there is nothing on them."""
        known: NDArray[np.bool_] = self.labels.reshape(len(self), -1)[:, 0] != UNLABELLED
        return known

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, ids: Ids) -> NDArray[np.uint8]:
        """Stored images, uint8 `(batch, h, w, 3)`.

        Raises:
            RunStopped: The store was truncated since it was opened.
        """
        if len(self.splits) == 1:
            return self.splits[0].take(ids)
        gathered: NDArray[np.uint8] | None = None
        start = 0
        for split in self.splits:
            rows = np.flatnonzero((ids >= start) & (ids < start + len(split.labels)))
            taken = split.take(ids[rows] - start)
            if gathered is None:
                gathered = np.empty((len(ids), *taken.shape[1:]), dtype=np.uint8)
            gathered[rows] = taken
            start += len(split.labels)
        assert gathered is not None
        return gathered

    def view(self, ids: Ids, number: int | Ids, device: torch.device) -> Tensor:
        """View `number` of these images, or one each; float32 `(batch, 3, size, size)` in [0, 1].

        Args:
            number: One for all, or `(batch,)`.
        """
        return self.augment(self.pixels(ids), ids, number, device)

    def augment(
        self,
        pixels: NDArray[np.uint8] | Tensor,
        ids: Ids,
        number: int | Ids,
        device: torch.device,
        motion: Floats | None = None,
    ) -> Tensor:
        """View `number` of images whose pixels are at hand.

        Args:
            motion: See `make_views`.
        """
        draws = Draws(self.seed, ids, number)
        labels = self.labels[ids] if self.views.per_class else None
        return make_views(
            pixels, draws, self.views, self.size, device, labels, self.classes, motion
        )

    def motion(self, ids: Ids, step: int | Ids, shift: float) -> Floats:
        """How each image's view is moved at a step, by `shift` of its size at most.

        Returns:
            `(batch, 2, 3)`, for `augment`.
        """
        return moves(Draws(self.seed, ids, step), self.views.flip, shift, self.size)

    def probe(self, pixels: NDArray[np.uint8]) -> Tensor:
        """View 0 of made-up images of the stored size, one after another of each class.

        They are known by numbers of their own, whatever images there are.
        """
        ids, cpu = np.arange(len(pixels), dtype=np.int64), torch.device("cpu")
        labels = ids % len(self.classes) if self.views.per_class else None
        draws = Draws(self.seed, ids, 0)
        return make_views(pixels, draws, self.views, self.size, cpu, labels, self.classes)

    def describe(self) -> dict[str, Any]:
        """What the views of these images depend on, and nothing else."""
        record: dict[str, Any] = {
            "images_sha256": [split_sha256(split) for split in self.splits],
            "views": self.views.model_dump(mode="json"),
            "versions": {"decoding": DECODING_VERSION, "views": VIEWS_VERSION},
            "seed": self.seed,
            "size": self.size,
        }
        if self.views.per_class:
            record["labels_sha256"] = hashlib.sha256(self.labels.tobytes()).hexdigest()
        return record


def read_ahead(
    read: Callable[[Asked], Read], inputs: Iterable[Asked], pool: ThreadPoolExecutor
) -> Iterator[tuple[Asked, Read]]:
    """Each input and what is read for it, which a thread of the pool does one input ahead."""
    ahead: tuple[Asked, Future[Read]] | None = None
    for asked in inputs:
        reading = pool.submit(read, asked)
        if ahead:
            yield ahead[0], ahead[1].result()
        ahead = asked, reading
    if ahead:
        yield ahead[0], ahead[1].result()


def is_read_by_file(shards: Ids | None) -> bool:
    """Whether there are too many files far away for images of all of them to be mixed."""
    return shards is not None and int(shards.max(initial=-1)) >= WINDOW


def _order_by_file(shards: Ids, seed: int, epoch: int) -> Ids:
    """A shuffle that reads `WINDOW` files at a time: of files, and of the images of each few."""
    files = permutation(seed, "shards", epoch, int(shards.max()) + 1)
    place = np.empty_like(files)
    place[files] = np.arange(len(files))
    mixed = permutation(seed, "shuffle", epoch, len(shards))
    return mixed[np.argsort(place[shards[mixed]] // WINDOW, kind="stable")]


def epoch_batches(
    count: int,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    shards: Ids | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Sample indices of each training batch of an epoch, on one of `world` ranks.

    The shuffle is a pure function of (seed, epoch). Every rank gets equally many batches of equal
    size, as gradient averaging needs: what does not fill a last batch on all ranks waits for
    another epoch's shuffle, unless there is not even one full batch.

    Args:
        shards: Number of the file of each image. Of many files, a few are read at a time, and each
            rank reads files of its own.
    """
    batch = min(batch_size, max(1, count // world))
    if shards is not None and is_read_by_file(shards):
        order, steps = _order_by_file(shards, seed, epoch), count // (batch * world)
        own = order[rank * steps * batch : (rank + 1) * steps * batch]
        yield from own.reshape(steps, batch)
        return
    order = permutation(seed, "shuffle", epoch, count)
    for start in range(0, count - batch * world + 1, batch * world):
        chunk = order[start : start + batch * world]
        yield chunk[rank * batch : (rank + 1) * batch]


def num_batches(count: int, batch_size: int, world: int = 1) -> int:
    """How many batches `epoch_batches` yields."""
    batch = min(batch_size, max(1, count // world))
    return count // (batch * world)
