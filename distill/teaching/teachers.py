"""Whoever teaches: frozen models asked for the logits of a batch, or the answers they gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.views.images import Batch
from distill.device import to_device
from distill.models.classifier import Classifier
from distill.strategies.losses import mix
from distill.strategies.objective import SOFTMAX, Objective
from distill.teaching.answers import Answers, Teacher
from distill.teaching.cache import CacheReader, TeacherCache


class Taught(NamedTuple):
    """What those who teach say of a batch, float32.

    Attributes:
        logits: `(teachers, batch, num_classes)`, adjusted to the training split.
        features: Of each teacher, `(batch, width)`; () where the strategy asks for none.
    """

    logits: Tensor
    features: tuple[Tensor, ...] = ()


class Teachers(Protocol):
    """What training asks of those who teach."""

    def __call__(self, batch: Batch) -> Taught:
        """What they say of it."""


class LiveTeachers:
    """Runs the teachers on every batch, in evaluation mode and without a graph.

    Args:
        models: At least one; they must know the same classes in the same order as the student.
        offsets: What is added to their logits, `(teachers, 1, num_classes)`: `Job.teacher_offsets`.
    """

    def __init__(
        self,
        models: Sequence[Classifier],
        device: torch.device,
        offsets: NDArray[np.float32] | None = None,
        with_features: bool = False,
    ) -> None:
        self._teachers = [Teacher(model, device, with_features) for model in models]
        self._offsets = on_device(offsets, device)

    def __call__(self, batch: Batch) -> Taught:
        """What the teachers say of these images, mixed ones as they are."""
        return taught([teacher(batch.images) for teacher in self._teachers], self._offsets)


class CachedTeachers:
    """Looks up what the teachers said of the same views, at next to no cost.

    Args:
        caches: One per teacher, complete in the views that batches are of.
        objective: What the logits mean.
        offsets: As for `LiveTeachers`.
    """

    def __init__(
        self,
        caches: Sequence[TeacherCache],
        device: torch.device,
        objective: Objective = SOFTMAX,
        offsets: NDArray[np.float32] | None = None,
    ) -> None:
        self.readers = [CacheReader(cache) for cache in caches]
        self.device, self.objective = device, objective
        self._offsets = on_device(offsets, device)

    def __call__(self, batch: Batch) -> Taught:
        """What the teachers said; of mixed images, the mixture of what they said of each.

        Raises:
            RunStopped: A file of a cache is missing or was cut short.
        """
        read = [reader.answers(batch.ids, batch.view) for reader in self.readers]
        # Before mixing: it is probabilities that are mixed.
        found = taught([_on(one, self.device) for one in read], self._offsets)
        if batch.share is None:
            return found
        mixed = (mix(said, said.roll(1, 0), batch.share) for said in found.features)
        return Taught(self.objective.mixed(found.logits, batch.share), tuple(mixed))


def _on(answers: Answers, device: torch.device) -> Answers:
    features = None if answers.features is None else to_device(answers.features, device)
    return Answers(to_device(answers.logits, device), features)


def taught(answers: Sequence[Answers], offsets: Tensor | None) -> Taught:
    """What several teachers say together."""
    logits = torch.stack([one.logits for one in answers])
    features = tuple(one.features for one in answers if one.features is not None)
    return Taught(logits if offsets is None else logits + offsets, features)


def on_device(array: NDArray[np.float32] | None, device: torch.device) -> Tensor | None:
    """An array as a tensor; nothing stays nothing."""
    return None if array is None else to_device(array, device)
