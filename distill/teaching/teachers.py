"""Whoever teaches: frozen models asked for the logits of a batch, or their answers of before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.views.images import Batch
from distill.device import to_device
from distill.models.classifier import Classifier, frozen
from distill.strategies.objective import SOFTMAX, Objective
from distill.teaching.cache import CacheReader, TeacherCache


class Teachers(Protocol):
    """What training asks of those who teach."""

    def __call__(self, batch: Batch) -> Tensor:
        """Logits `(teachers, batch, num_classes)`, float32, adjusted to the training split."""


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
    ) -> None:
        self.models = [frozen(model, device) for model in models]
        self._offsets = on_device(offsets, device)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """What the teachers say of these images, mixed ones as they are."""
        assert not any(model.training for model in self.models)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        logits = torch.stack([model(images).logits.float() for model in self.models])
        return logits if self._offsets is None else logits + self._offsets


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

    def __call__(self, batch: Batch) -> Tensor:
        """What the teachers said; of mixed images, the mixture of what they said of each.

        Raises:
            RunStopped: A file of a cache is missing or was cut short.
        """
        cached = torch.stack([reader.logits(batch.ids, batch.view) for reader in self.readers])
        logits = to_device(cached, self.device)
        if self._offsets is not None:  # before mixing: it is probabilities that are mixed
            logits = logits + self._offsets
        if batch.share is None:
            return logits
        return self.objective.mixed(logits, batch.share)


def on_device(array: NDArray[np.float32] | None, device: torch.device) -> Tensor | None:
    """An array as a tensor; nothing stays nothing."""
    return None if array is None else to_device(array, device)
