"""What one optimiser step is made of: batches of every process, and several of each if asked for.

Gradients of batches that are equally large are averaged with equal weights, over time as over
processes: that is the gradient of one large batch, as long as its loss is a mean over images and
its network has no BatchNorm. Where labels have weights, each batch is a weighted mean of its own,
so the step is the mean of those, not the weighted mean over all of its images. Of a batch's own as
well are MixUp's share and what features vary by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from distill.config import TrainConfig
from distill.data.views.images import num_batches
from distill.errors import UserError


class Part(NamedTuple):
    """The place of a batch, from 0 on, among the batches of its optimiser step."""

    number: int = 0
    of: int = 1

    @property
    def is_first(self) -> bool:
        """Whether the step begins with it."""
        return self.number == 0

    @property
    def is_last(self) -> bool:
        """Whether the step is taken after it."""
        return self.number == self.of - 1


WHOLE = Part()


def parts(batches: int, accumulate: int) -> Iterator[Part]:
    """The place of each batch of an epoch; the last step is of the batches that are left."""
    for start in range(0, batches, accumulate):
        count = min(accumulate, batches - start)
        yield from (Part(number, count) for number in range(count))


def effective_batch(images: int, batch_size: int, processes: int, accumulate: int) -> int:
    """Images of an optimiser step.

    Args:
        images: That there are: a step has no more of them than an epoch.
    """
    size = min(batch_size, max(1, images // processes))
    return size * processes * min(accumulate, num_batches(images, batch_size, processes))


def accumulate_anew(processes: int, accumulate: int, now: int) -> int:
    """Batches per step of each of another number of processes, the effective batch being the same.

    Args:
        processes, accumulate: That the run was begun with.
        now: Processes that continue it.

    Raises:
        UserError: They cannot share it evenly.
    """
    batches = processes * accumulate
    if batches % now == 0:
        return batches // now
    fitting = [str(count) for count in range(1, min(batches, 64) + 1) if batches % count == 0]
    what = f"its optimiser steps are {batches} batches, which {now} processes cannot share evenly"
    raise UserError(what, "processes", f"continue it with {' or '.join(fitting)}")


def usual_rate(train: TrainConfig, effective: int) -> float:
    """What a rate that was found with single batches of one process is usually scaled to.

    With the batch for SGD (Goyal et al., 2017, arXiv:1706.02677), with its square root for Adam
    and its like (Malladi et al., 2022, arXiv:2205.10287).
    """
    times = effective / train.batch_size
    return train.lr * (times if train.optimizer == "sgd" else math.sqrt(times))


def rate_line(train: TrainConfig, images: int, processes: int, accumulate: int) -> str:
    """What a step consists of, and what is usual for a rate that was found with single batches."""
    effective = effective_batch(images, train.batch_size, processes, accumulate)
    made = f"batch_size {train.batch_size} x accumulate {accumulate} x world size {processes}"
    if effective < train.batch_size * accumulate * processes:
        made += ", as far as an epoch's images go"
    line = f"the effective batch is {effective} images ({made}), train.lr = {train.lr:g} as given"
    if effective <= train.batch_size:
        return line
    rule = "the square root of the batch (Malladi et al., 2022, arXiv:2205.10287)"
    if train.optimizer == "sgd":
        rule = "the batch (Goyal et al., 2017, arXiv:1706.02677)"
    usual = f"here to {usual_rate(train, effective):.2g}"
    return f"{line}; one found at {train.batch_size} usually grows with {rule}, {usual}"


def restart_line(before: int, now: int, accumulate: int) -> str:
    """What it means that another number of processes continues a run."""
    return (
        f"begun at world size {before}, continued at {now} with accumulate {accumulate}: the "
        "effective batch stays, rounding and dropout differ from a run of one size"
    )
