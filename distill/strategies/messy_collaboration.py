"""Distillation with randomly corrupted labels: Arani et al., 2019, arXiv:1910.05057, section 4.3.

This is the corrupted student; a corrupted teacher is one trained with `supervised` and
`label_noise`. Both together are the paper's third variant.
"""

from __future__ import annotations

from torch import Tensor

from distill.config import Fraction
from distill.strategies.lesson import Lesson, corrupted
from distill.strategies.vanilla import Strategy as Vanilla


class Strategy(Vanilla):
    """The loss of `vanilla` with noise on the labels."""

    kd_weight: Fraction = 0.5
    """Share of the teacher's term; the labels get the rest."""
    label_noise: Fraction = 0.1
    """Probability that a sample's label is replaced by another class, drawn anew for every sample
    and epoch; where labels are many, that each of them is turned round.
    """

    def __call__(self, lesson: Lesson) -> dict[str, Tensor]:
        """The terms of `vanilla` with corrupted labels."""
        return super().__call__(corrupted(lesson, self.label_noise))
