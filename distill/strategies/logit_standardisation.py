"""Distillation of standardised logits: Sun et al., 2024, arXiv:2403.01427, section 4.2.

A student of few parameters need not match the size of its teacher's logits, only how they lie to
each other: both sides are shifted to mean 0 and scaled to standard deviation 1 over the classes.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distill.config import Fraction, Positive, TaskName
from distill.errors import UserError
from distill.strategies.objective import Objective, Sigmoid
from distill.strategies.vanilla import Strategy as Vanilla

SMALLEST_STD = 1e-7


class Strategy(Vanilla):
    """The loss of `vanilla` between standardised logits; the labels see the student's own."""

    tasks: ClassVar[tuple[TaskName, ...]] = ("single",)
    needs_all_logits: ClassVar[bool] = True
    min_classes: ClassVar[int] = (
        3  # standardised, the logits of two are 1 and -1 whatever they were
    )
    temperature: Positive = 2.0
    """Softens both standardised distributions; the paper's base temperature."""
    kd_weight: Fraction = 0.9
    """Share of the teacher's term."""

    def distance(
        self, student_logits: Tensor, teacher_logits: Tensor, objective: Objective
    ) -> Tensor:
        """`T² * KL(teacher || student)` of the standardised logits.

        Raises:
            UserError: Two classes, see `min_classes`. Or labels that are independent: their mean is
                part of what a teacher says of them.
        """
        if isinstance(objective, Sigmoid):
            what = "logit_standardisation is for images with one label"
            raise UserError(what, "strategy.name", "use vanilla")
        if student_logits.shape[-1] < self.min_classes:
            hint = "use vanilla for two classes"
            raise UserError("logit_standardisation needs 3 classes", "strategy.name", hint)
        pair = standardised(student_logits), standardised(teacher_logits)
        return super().distance(*pair, objective)


def standardised(logits: Tensor) -> Tensor:
    """Logits `(..., num_classes)` with mean 0 and standard deviation 1 over the classes."""
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + SMALLEST_STD).sqrt()
