"""A teacher that is asked, and what it says."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distill.models.classifier import Classifier
from distill.models.deployed import frozen
from distill.models.pooling import FeatureTap


class Answers(NamedTuple):
    """What a teacher says of a batch, float32.

    Attributes:
        logits: `(batch, num_classes)`.
        features: Pooled ones before its head, `(batch, width)`; None where nobody asked.
    """

    logits: Tensor
    features: Tensor | None = None


class Teacher:
    """A model that answers only: in evaluation mode, without a graph."""

    def __init__(
        self, classifier: Classifier, device: torch.device, with_features: bool = False
    ) -> None:
        self.model = frozen(classifier, device)
        self._tap = FeatureTap(self.model) if with_features else None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Answers:
        """What it says of images `(batch, 3, height, width)` in [0, 1]."""
        assert not self.model.training
        logits = self.model(images.contiguous(memory_format=torch.channels_last)).logits.float()
        return Answers(logits, self._tap.take() if self._tap else None)
