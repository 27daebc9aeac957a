"""From a student's features to those of its teachers: trained along, and thrown away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.models.classifier import Classifier
from distill.models.pooling import feature_width


class Projection(nn.Module):
    """A linear map from the student's pooled features to those of each teacher.

    Args:
        seed: Of its weights.
    """

    def __init__(self, student: Classifier, teachers: Sequence[Classifier], seed: int) -> None:
        super().__init__()
        width = feature_width(student)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.maps = nn.ModuleList(nn.Linear(width, feature_width(t)) for t in teachers)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Features `(batch, width)` as each teacher would have them."""
        return [project(features) for project in self.maps]
