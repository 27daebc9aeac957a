"""Distillation of pooled features, beside the logits.

What a network hands to its head says more than ten logits do, and needs no label: a student that
learned it can be given any other head. FitNets (Romero et al., 2015, arXiv:1412.6550) map the
student's features to the teacher's by a layer that is trained along and thrown away. Before the
head, where mimicking is worth most (Wang et al., 2020, arXiv:2011.01424), a linear one does.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distill.config import NonNegative
from distill.strategies.lesson import Lesson
from distill.strategies.losses import unexplained
from distill.strategies.vanilla import Strategy as Vanilla


class Strategy(Vanilla):
    """The loss of `vanilla`, and the features of its teachers that the student does not have."""

    needs_features: ClassVar[bool] = True
    feature_weight: NonNegative = 1.0
    """Weight of the features' term beside the loss of `vanilla`. With `kd_weight = 1` no label is
    used at all.
    """

    def __call__(self, lesson: Lesson) -> dict[str, Tensor]:
        """The terms of `vanilla`, and `feature`: a share of the teachers' variance, their mean."""
        terms = super().__call__(lesson)
        missed = [unexplained(student, teacher) for student, teacher in lesson.features]
        feature = sum(missed, terms["loss"].new_zeros(())) / max(1, len(missed))
        loss = terms["loss"] + self.feature_weight * feature
        return {**terms, "loss": loss, "feature": feature}
