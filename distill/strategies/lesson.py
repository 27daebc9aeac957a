"""What a strategy is given of a batch: one value, so that a new part of it changes no strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from distill.data.views.draws import Draws
from distill.strategies.objective import SOFTMAX, Objective


@dataclass(frozen=True)
class Lesson:
    """What student and teachers say of a batch, and what is known of it.

    Attributes:
        student: The student's logits `(batch, num_classes)`, the only ones with a gradient.
        teachers: Logits `(teachers, batch, num_classes)`; None where nobody teaches.
        labels: Class indices `(batch,)` or probabilities `(batch, num_classes)`.
        weights: Weights of the samples, `(batch,)`, or, where images may have several labels, of
            cells `(batch, num_classes)`; None for all 1. They apply to labels, not to what a
            teacher says.
        draws: Random numbers of these samples in this epoch, the only source of randomness.
        objective: What logits mean: a class, or any number of labels.
        features: Of each teacher, for a strategy that `needs_features`: the student's pooled
            features projected to the teacher's, and the teacher's, `(batch, width)` both.
    """

    student: Tensor
    teachers: Tensor | None
    labels: Tensor
    weights: Tensor | None
    draws: Draws
    objective: Objective = SOFTMAX
    features: Sequence[tuple[Tensor, Tensor]] = ()

    @property
    def num_classes(self) -> int:
        """Classes, or labels that an image may have."""
        return self.student.shape[1]

    def label_loss(self) -> Tensor:
        """What the student has to learn from the labels, in nats."""
        return self.objective.label_loss(self.student, self.labels, self.weights)


def corrupted(lesson: Lesson, rate: float) -> Lesson:
    """The lesson with labels of which each is wrong with probability `rate`."""
    labels = lesson.objective.corrupt(lesson.labels, lesson.num_classes, rate, lesson.draws)
    return replace(lesson, labels=labels)
