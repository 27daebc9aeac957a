"""Cross-entropy with the labels: how teachers are trained, and what KD is held against."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from distill.config import Fraction
from distill.data.views.draws import Draws
from distill.strategies import Strategy as Base
from distill.strategies.objective import SOFTMAX, Objective


class Strategy(Base):
    """Supervised training.

    Attributes:
        label_noise: Probability that a label is wrong in an epoch; on a teacher, the corrupted
            teacher of Arani et al., 2019, arXiv:1910.05057, section 4.3.
    """

    taught_by: ClassVar[Literal["nobody", "teachers", "self"]] = "nobody"
    label_noise: Fraction = 0.0

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        draws: Draws,
        objective: Objective = SOFTMAX,
    ) -> dict[str, Tensor]:
        """Cross-entropy; what a teacher says is not looked at."""
        if self.label_noise > 0:
            labels = objective.corrupt(labels, student_logits.shape[1], self.label_noise, draws)
        ce = objective.label_loss(student_logits, labels, weights)
        return {"loss": ce, "ce": ce}
