"""Whoever teaches: frozen models asked for the logits of a batch of views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.models import Classifier


class LiveTeachers:
    """Runs the teachers on every batch, in evaluation mode and without a graph.

    Args:
        models: At least one; they must know the same classes in the same order as the student.
    """

    def __init__(self, models: Sequence[Classifier], device: torch.device) -> None:
        # Channels-last is faster forward, on CPUs too (SqueezeNet 2.5 times; benchmarks/LOG.md).
        self.models = [
            model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
            for model in models
        ]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(teachers, batch, num_classes)`, float32, of images in [0, 1]."""
        assert not any(model.training for model in self.models)
        images = images.contiguous(memory_format=torch.channels_last)
        return torch.stack([model(images).logits.float() for model in self.models])
