"""What logits mean, and so what labels and teachers ask of them: one class, or several labels.

A strategy is written in these terms once, and then serves both kinds of task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.config import TaskName
from distill.data.views.draws import Draws
from distill.strategies.losses import (
    bernoulli_kl,
    binary_cross_entropy,
    corrupt_cells,
    corrupt_labels,
    cross_entropy,
    distillation_kl,
    log_mixture,
)


class Objective(Protocol):
    """What both kinds of task have. Losses are scalars in nats per image, means over the batch."""

    def label_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """What logits `(batch, num_classes)` have to learn from the labels.

        Args:
            labels: What `targets` gave, mixed or corrupted since.
            weights: What `label_weights` gave, mixed since; None for all 1.
        """

    def distance(
        self, student_logits: Tensor, teacher_logits: Tensor, temperature: float
    ) -> Tensor:
        """`T² * KL(teacher || student)` of the softened answers.

        Args:
            student_logits: `(batch, num_classes)`.
            teacher_logits: `(teachers, batch, num_classes)`; several teachers' softened
                probabilities are averaged.
        """

    def centred(self, logits: Tensor) -> Tensor:
        """Logits `(..., num_classes)` without what the answers do not depend on."""

    def mixed(self, logits: Tensor, share: float) -> Tensor:
        """Logits of `share` of each sample's probabilities and the rest of its neighbour's.

        The neighbour is the sample before, as in MixUp of the images. All in logarithms.

        Args:
            logits: `(teachers, batch, num_classes)`.
        """

    def corrupt(self, labels: Tensor, num_classes: int, rate: float, draws: Draws) -> Tensor:
        """Labels of which each is wrong with probability `rate`."""

    def targets(self, labels: Tensor, num_classes: int, smoothing: float, soft: bool) -> Tensor:
        """Labels as the data has them, made ready for `label_loss`.

        Args:
            smoothing: Share of each label that is given to all answers alike.
            soft: Ask for probabilities `(batch, num_classes)`, as mixing needs them.
        """

    def label_weights(self, labels: Tensor, class_weights: Tensor) -> Tensor:
        """Weights of labels as the data has them, by those of the classes `(num_classes,)`."""


@dataclass(frozen=True)
class Softmax:
    """One class per image: labels are class indices `(batch,)`, or probabilities.

    Attributes:
        focal_gamma: Exponent of the focal factor of `label_loss`; 0 is cross-entropy.
    """

    focal_gamma: float = 0.0

    def label_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Cross-entropy; weights are of samples."""
        return cross_entropy(logits, labels, weights, self.focal_gamma)

    def distance(
        self, student_logits: Tensor, teacher_logits: Tensor, temperature: float
    ) -> Tensor:
        """Between distributions over the classes."""
        return distillation_kl(student_logits, teacher_logits, temperature)

    def centred(self, logits: Tensor) -> Tensor:
        """Without their mean: a constant that is added to all changes no probability."""
        return logits - logits.mean(dim=-1, keepdim=True)

    def mixed(self, logits: Tensor, share: float) -> Tensor:
        """Known up to a constant: the logarithms of the mixture."""
        return log_mixture(F.log_softmax(logits, dim=-1), share)

    def corrupt(self, labels: Tensor, num_classes: int, rate: float, draws: Draws) -> Tensor:
        """Another class, drawn uniformly."""
        return corrupt_labels(labels, num_classes, rate, draws)

    def targets(self, labels: Tensor, num_classes: int, smoothing: float, soft: bool) -> Tensor:
        """Class indices where they do."""
        if smoothing == 0 and not soft:
            return labels
        one_hot = F.one_hot(labels, num_classes).float()
        return one_hot * (1.0 - smoothing) + smoothing / num_classes

    def label_weights(self, labels: Tensor, class_weights: Tensor) -> Tensor:
        """That of each sample's class, `(batch,)`."""
        return class_weights[labels]


@dataclass(frozen=True)
class Sigmoid:
    """Any number of labels per image: each is a question of its own, `(batch, num_classes)`.

    Attributes:
        focal_gamma: Exponent of the focal factor of `label_loss`; 0 is binary cross-entropy.
    """

    focal_gamma: float = 0.0

    def label_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Binary cross-entropy, summed over an image's labels; weights are of samples or cells."""
        return binary_cross_entropy(logits, labels, weights, self.focal_gamma)

    def distance(
        self, student_logits: Tensor, teacher_logits: Tensor, temperature: float
    ) -> Tensor:
        """Between the probabilities of each label, summed over an image's labels."""
        return bernoulli_kl(student_logits, teacher_logits, temperature)

    def centred(self, logits: Tensor) -> Tensor:
        """As they are: each label's probability follows from its own logit."""
        return logits

    def mixed(self, logits: Tensor, share: float) -> Tensor:
        """The log-odds of the mixture, label by label."""
        present, absent = F.logsigmoid(logits), F.logsigmoid(-logits)
        return log_mixture(present, share) - log_mixture(absent, share)

    def corrupt(self, labels: Tensor, num_classes: int, rate: float, draws: Draws) -> Tensor:
        """The complement, drawn for each label of each image."""
        return corrupt_cells(labels, rate, draws)

    def targets(self, labels: Tensor, num_classes: int, smoothing: float, soft: bool) -> Tensor:
        """Probabilities: yes and no are the answers that smoothing is shared by."""
        return labels.float() * (1.0 - smoothing) + smoothing / 2.0

    def label_weights(self, labels: Tensor, class_weights: Tensor) -> Tensor:
        """Of cells: that of its class where the label is there, 1 where it is not."""
        return torch.where(labels == 1, class_weights, torch.ones_like(class_weights))


SOFTMAX = Softmax()


def make_objective(task: TaskName, focal_gamma: float = 0.0) -> Objective:
    """The objective of a task."""
    return Sigmoid(focal_gamma) if task == "multi" else Softmax(focal_gamma)
