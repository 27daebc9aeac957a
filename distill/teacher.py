"""Whoever teaches: frozen models asked for the logits of a batch, or their answers of before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.training import Batch
from distill.models import Classifier, frozen
from distill.teacher_cache import CacheReader, TeacherCache


class Teachers(Protocol):
    """What training asks of those who teach."""

    def view(self, epoch: int) -> int:
        """Number of the view that an epoch shows, to teacher and student alike."""

    def __call__(self, batch: Batch) -> Tensor:
        """Logits `(teachers, batch, num_classes)`, float32."""


class LiveTeachers:
    """Runs the teachers on every batch, in evaluation mode and without a graph.

    Args:
        models: At least one; they must know the same classes in the same order as the student.
    """

    def __init__(self, models: Sequence[Classifier], device: torch.device) -> None:
        self.models = [frozen(model, device) for model in models]

    def view(self, epoch: int) -> int:
        """A new view in every epoch."""
        return epoch

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """What the teachers say of these images, mixed ones as they are."""
        assert not any(model.training for model in self.models)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        return torch.stack([model(images).logits.float() for model in self.models])


class CachedTeachers:
    """Looks up what the teachers said of the same views, at next to no cost.

    Args:
        caches: One per teacher, complete in the first `views` views, which the epochs cycle over.
    """

    def __init__(self, caches: Sequence[TeacherCache], views: int, device: torch.device) -> None:
        self.readers = [CacheReader(cache) for cache in caches]
        self.views, self.device = views, device

    def view(self, epoch: int) -> int:
        """Views in turn."""
        return epoch % self.views

    def __call__(self, batch: Batch) -> Tensor:
        """What the teachers said; of mixed images, the mixture of what they said of each.

        Raises:
            RunStopped: A file of a cache is missing or was cut short.
        """
        found = torch.stack([reader.logits(batch.ids, batch.view) for reader in self.readers])
        logits = found.to(self.device, non_blocking=True)
        if batch.share is None:
            return logits
        return mix_logits(logits, batch.share)


def mix_logits(logits: Tensor, share: float) -> Tensor:
    """Log-probabilities of `share` of each sample's distribution and the rest of its neighbour's.

    The neighbour is the sample before, as in MixUp of the images.

    Args:
        logits: `(teachers, batch, num_classes)`.
    """
    own = F.log_softmax(logits, dim=-1)
    weight = own.new_tensor([share, 1.0 - share]).log()
    return torch.logaddexp(own + weight[0], own.roll(1, 1) + weight[1])
