"""Knowledge distillation as first described: Hinton et al., 2015, arXiv:1503.02531, section 2."""

from __future__ import annotations

from torch import Tensor

from distill.config import Fraction, Positive
from distill.strategies import Strategy as Base
from distill.strategies.lesson import Lesson
from distill.strategies.losses import blend
from distill.strategies.objective import Objective


class Strategy(Base):
    """Softened teacher probabilities beside the labels."""

    temperature: Positive = 4.0
    """Softens both distributions."""
    kd_weight: Fraction = 0.9
    """Share of the teacher's term; the labels get the rest."""

    def __call__(self, lesson: Lesson) -> dict[str, Tensor]:
        """`kd_weight * T² * KL(teacher || student) + (1 - kd_weight) * CE`."""
        assert lesson.teachers is not None
        kd = self.distance(lesson.student, lesson.teachers, lesson.objective)
        return blend(kd, lesson.label_loss(), self.kd_weight)

    def distance(
        self, student_logits: Tensor, teacher_logits: Tensor, objective: Objective
    ) -> Tensor:
        """`T² * KL(teacher || student)`, the mean over the batch."""
        return objective.distance(student_logits, teacher_logits, self.temperature)
