"""Cross-entropy with the labels: how teachers are trained, and what KD is held against."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from distill.config import Fraction
from distill.strategies import Strategy as Base
from distill.strategies.lesson import Lesson, corrupted


class Strategy(Base):
    """Supervised training."""

    taught_by: ClassVar[Literal["nobody", "teachers", "self"]] = "nobody"
    label_noise: Fraction = 0.0
    """Probability that a label is wrong in an epoch; on a teacher, the corrupted teacher of Arani
    et al., 2019, arXiv:1910.05057, section 4.3.
    """

    def __call__(self, lesson: Lesson) -> dict[str, Tensor]:
        """Cross-entropy; what a teacher says is not looked at."""
        if self.label_noise > 0:
            lesson = corrupted(lesson, self.label_noise)
        ce = lesson.label_loss()
        return {"loss": ce, "ce": ce}
