"""How long each run of a plan trains: in steps first, so that few images and many both learn."""

from __future__ import annotations

import copy
import math

from distill.data.views.images import num_batches
from distill.overrides import ROLES
from distill.planner.preset import Amount, Preset, Table

BATCHES = (8, 16, 32)  # sizes to choose from: the largest of which an epoch has so many
FEWEST_STEPS = 8
FROZEN = 0.1  # share of a teacher's epochs in which only its head learns
SEEN = 2000  # training views that a teacher answers at least: few images are seen often anew
WARM = 0.1  # share of a run's epochs in which the rate rises, of at most one epoch


def batch_size(images: int) -> int:
    """Images per step: fewer where there are few, so that an epoch is more than a step or two."""
    return max((size for size in BATCHES if images // size >= FEWEST_STEPS), default=BATCHES[0])


def epochs_of(amount: Amount, images: int, batch: int, share: float) -> int:
    """Epochs that are about `share` of an amount of steps, within its bounds."""
    low, high = amount.epochs
    steps = max(1, num_batches(images, batch))
    return min(high, max(low, math.ceil(share * amount.steps / steps)))


def views_of(images: int, epochs: int, fewest: int) -> int:
    """Views per image that a student's teacher answers: more where there are few images."""
    return min(epochs, max(fewest, math.ceil(SEEN / images)))


def scheduled(
    table: Table, preset: Preset, images: int, share: float, unlabelled: int = 0
) -> Table:
    """A table with epochs, batches and frozen phases, but for those that it has already.

    Args:
        images: Training images.
        unlabelled: Images that students learn from beside them.
        share: Of the steps that the preset names.
    """
    table = copy.deepcopy(table)
    for role, amount in ((ROLES["teacher"], preset.teacher), (ROLES["student"], preset.student)):
        for run in table[role]:
            more = unlabelled if role == ROLES["student"] and run.get("unlabelled", True) else 0
            train = run.setdefault("train", {})
            batch = train.setdefault("batch_size", batch_size(images + more))
            step = batch * train.get("accumulate", 1)
            epochs = train.setdefault("epochs", epochs_of(amount, images + more, step, share))
            train.setdefault("warmup_epochs", min(1.0, WARM * epochs))
            if role == ROLES["student"]:
                views = views_of(images + more, epochs, preset.views)
                run.setdefault("cache", {}).setdefault("views", views)
            if role == ROLES["teacher"]:
                freeze = min(epochs - 1, math.ceil(FROZEN * epochs))
                run.setdefault("transfer", {}).setdefault("freeze_epochs", freeze)
    return table
