"""Classes of unequal size: weights, priors and balanced epochs, counted on the training split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.config import TrainConfig
from distill.data.prepare import ImageData
from distill.data.views.draws import Draws, Floats, Ints
from distill.errors import UserError, alike, did_you_mean


def check_class_weights(config: TrainConfig, classes: tuple[str, ...], where: str) -> None:
    """Raises UserError where weights are given by name and the names are not those of the data."""
    if not isinstance(config.class_weights, dict):
        return
    given = config.class_weights
    if unknown := sorted({*given} - {*classes}):
        hint = did_you_mean(alike(unknown[0], classes)) or f"there are {', '.join(classes)}"
        raise UserError(f"no class named {unknown[0]!r}", where, hint)
    if missing := sorted({*classes} - {*given}):
        what = f"every class needs a weight, {missing[0]!r} has none"
        raise UserError(what, where, f"give one to {', '.join(missing)}")


def class_weights(config: TrainConfig, data: ImageData) -> NDArray[np.float32] | None:
    """A weight per class, or None.

    Where an image has one label it weighs as its class does, and the average training image has
    weight 1. Where it may have several, these are the weights of a label that is there against 1
    of one that is not.

    Raises:
        UserError: The options name other classes, or a label is on no training image or on all.
    """
    scheme = config.class_weights
    if scheme == "none":
        return None
    if isinstance(scheme, dict):
        check_class_weights(config, data.classes, "train.class_weights")
        return np.asarray([scheme[name] for name in data.classes], dtype=np.float32)
    present, absent = _sizes(data, "train.class_weights")
    worth, rest = present, absent
    if scheme == "effective":
        worth, rest = (effective_number(n, config.effective_beta) for n in (present, absent))
    average = (present / worth).sum() / present.sum()
    weights: Floats = rest / worth if data.task == "multi" else 1.0 / (worth * average)
    return weights.astype(np.float32)


def effective_number(count: Floats, beta: float) -> Floats:
    """How many images `count` are worth where they overlap (Cui et al., 2019, arXiv:1901.05555).

    1 whatever the count at `beta` = 0, the count itself as `beta` tends to 1.
    """
    worth: Floats = (1.0 - beta**count) / (1.0 - beta)
    return worth


def log_prior(data: ImageData) -> Floats:
    """How common each class is, as the logits `(num_classes,)` that say so.

    The logarithm of its share of the training images or, where an image may have several labels,
    its log-odds.

    Raises:
        UserError: A label is on no training image, or on all of them.
    """
    present, absent = _sizes(data, "train.logit_adjustment")
    others = absent if data.task == "multi" else present.sum()
    logits: Floats = np.log(present) - np.log(others)
    return logits


def _sizes(data: ImageData, where: str) -> tuple[Floats, Floats]:
    """Training images that have each label, and that have not."""
    present = np.asarray(data.class_counts("train"), dtype=np.float64)
    labels = data.train.labels
    absent = (labels.reshape(len(labels), -1)[:, 0] >= 0).sum() - present
    for name, has, lacks in zip(data.classes, present, absent, strict=True):
        if has == 0 or (lacks == 0 and data.task == "multi"):
            what = f"{'no' if has == 0 else 'every'} training image has the label {name!r}"
            raise UserError(what, where, "leave the option or the label out")
    return present, absent


@dataclass(frozen=True)
class Sampling:
    """How often each training image is to be drawn in an epoch.

    Attributes:
        rates: Expected number of draws `(n,)`; they add up to n.
        groups: Class of each image, `(n,)`: within a group the number of draws hardly varies.
    """

    rates: Floats
    groups: Ints


def balanced_sampling(labels: Ints, is_labelled: NDArray[np.bool_]) -> Sampling:
    """Every class equally often; unlabelled images once each, as they are of no class.

    Args:
        labels: Class indices `(n,)`; or, where an image may have several labels, `(n,
            num_classes)` of 0 and 1. An image then counts as one of its rarest label, or of the
            commonest of all if it has none.
    """
    groups = np.zeros(len(labels), dtype=np.int64)
    if labels.ndim == 2:
        sizes = (labels == 1).sum(axis=0)
        own_sizes = np.where(labels == 1, sizes, len(labels) + 1)
        groups = np.where((labels == 1).any(axis=1), own_sizes.argmin(axis=1), sizes.argmax())
    else:
        groups[is_labelled] = labels[is_labelled]
        sizes = np.bincount(groups[is_labelled])
    weights = np.where(is_labelled, 1.0 / np.maximum(sizes, 1)[groups], 0.0)
    rates = np.where(is_labelled, weights * is_labelled.sum() / weights.sum(), 1.0)
    return Sampling(rates, np.where(is_labelled, groups, -1))


def draw_epoch(sampling: Sampling, seed: int, epoch: int) -> tuple[Ints, Ints]:
    """The images of an epoch, a pure function of (seed, epoch); they are yet to be shuffled.

    Systematic sampling: an image that is expected 2.3 times is drawn twice or three times, and
    the images of a group together as often as expected, but for rounding.

    Returns:
        Image numbers `(n,)` in the order of their groups, and how often each was drawn before.
    """
    count = len(sampling.rates)
    draws = Draws(seed, np.arange(count, dtype=np.int64), epoch)
    order = np.lexsort((draws.uniform("balanced", 1)[:, 0], sampling.groups))
    start = Draws(seed, np.zeros(1, dtype=np.int64), epoch).uniform("balanced_start", 1)[0, 0]
    ends = np.cumsum(sampling.rates[order])
    ends[-1] = count  # whatever was lost in adding up
    times = np.diff(np.floor(ends + start), prepend=0.0).astype(np.int64)
    first = np.cumsum(times) - times
    return np.repeat(order, times), np.arange(count) - np.repeat(first, times)
