"""A teacher whose logits are noisy: Sau & Balasubramanian, 2016, arXiv:1610.09650, section 3.

Noise on the teacher stands for several teachers of differing opinion, and regularises. The paper
matches logits by squared error; here the noisy teacher is matched as in `vanilla`, to which a
constant that is added to all logits means nothing. So the noise is relative to the logits without
their mean: a cache's logits of mixed images, which are known up to a constant, get the same.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from distill.config import Fraction
from distill.data.views.draws import Draws
from distill.device import to_device
from distill.strategies.lesson import Lesson
from distill.strategies.vanilla import Strategy as Vanilla


class Strategy(Vanilla):
    """Distillation from perturbed teacher logits."""

    noise_std: Fraction = 0.3
    """Standard deviation σ of the relative noise: a logit z becomes (1 + ξ) z with ξ ~ N(0, σ²),
    drawn for each logit; z is taken without the mean over the classes.
    """
    noise_share: Fraction = 0.5
    """Probability that a sample's teacher is perturbed (α in the paper)."""

    def __call__(self, lesson: Lesson) -> dict[str, Tensor]:
        """The terms of `vanilla` with the perturbed teacher."""
        assert lesson.teachers is not None
        logits = lesson.objective.centred(lesson.teachers)
        return super().__call__(replace(lesson, teachers=self.perturb(logits, lesson.draws)))

    def perturb(self, teacher_logits: Tensor, draws: Draws) -> Tensor:
        """Teacher logits `(teachers, batch, num_classes)` with noise on a share of the samples."""
        teachers, batch, num_classes = teacher_logits.shape
        device = teacher_logits.device
        noise = to_device(draws.normal("teacher_noise", teachers * num_classes), device)
        noise = noise.to(teacher_logits.dtype).view(batch, teachers, num_classes).transpose(0, 1)
        hit = to_device(draws.uniform("teacher_hit", 1) < self.noise_share, device)
        return teacher_logits * (1.0 + self.noise_std * noise * hit)
