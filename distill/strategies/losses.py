"""Pure tensor functions that objectives are made of; results are means over the batch, in nats.

Logits are `(batch, num_classes)`; labels are class indices `(batch,)` or probabilities
`(batch, num_classes)`; weights are `(batch,)`, or of cells, where each class is a question of its
own, `(batch, num_classes)`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.views.draws import Draws
from distill.device import to_device


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of values, weighted if there are weights of their shape; 0 if all weigh 0."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, focal_gamma: float = 0.0
) -> Tensor:
    """Cross-entropy with class indices or probabilities as labels.

    Args:
        focal_gamma: Exponent γ of the focal factor (1 - p)^γ (Lin et al., 2017, arXiv:1708.02002,
            eq. 4). A soft label's loss is the mean of its classes' losses, as without the factor.
    """
    if focal_gamma == 0:
        return weighted_mean(F.cross_entropy(logits, labels, reduction="none"), weights)
    log_probs = F.log_softmax(logits, dim=-1)
    # The floor keeps the gradient of a small power finite where a class is certain.
    missed = (-torch.expm1(log_probs)).clamp(min=torch.finfo(logits.dtype).tiny)
    losses = -missed.pow(focal_gamma) * log_probs
    if labels.ndim == 1:
        return weighted_mean(losses.gather(1, labels[:, None])[:, 0], weights)
    return weighted_mean((labels * losses).sum(dim=1), weights)


def binary_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, focal_gamma: float = 0.0
) -> Tensor:
    """Negative log-likelihood of independent labels: the sum over an image's labels.

    Args:
        labels: Probabilities `(batch, num_classes)`, of each label on its own.
        weights: Of samples or of cells; the mean over the samples is weighted by them.
        focal_gamma: Exponent of the focal factor, as in `cross_entropy`.
    """
    present, absent = F.logsigmoid(logits), F.logsigmoid(-logits)
    if focal_gamma > 0:
        present, absent = (
            (focal_gamma * absent).exp() * present,
            (focal_gamma * present).exp() * absent,
        )
    cells = -(labels * present + (1.0 - labels) * absent)
    if weights is not None and weights.ndim == 1:
        weights = weights[:, None].expand_as(cells)
    return weighted_mean(cells, weights) * cells.shape[1]


def distillation_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) between softened distributions, times T².

    The factor keeps the gradient's size when T changes (Hinton et al., 2015, arXiv:1503.02531,
    section 2.1); the sum over classes and mean over samples keep it when their numbers change.

    Args:
        teacher_logits: `(teachers, batch, num_classes)`; several teachers' softened probabilities
            are averaged.
    """
    student = F.log_softmax(student_logits / temperature, dim=-1)
    if len(teacher_logits) == 1:
        teacher = F.log_softmax(teacher_logits[0] / temperature, dim=-1)
    else:
        each = F.log_softmax(teacher_logits / temperature, dim=-1)
        teacher = each.logsumexp(dim=0) - math.log(len(each))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def bernoulli_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """`distillation_kl` where each label is a question of its own: summed over an image's labels.

    In logarithms of both answers throughout, so that it is finite for any logits.
    """
    total = student_logits.new_zeros(())
    for sign in (1.0, -1.0):  # the label is there, or it is not
        student = F.logsigmoid(sign * student_logits / temperature)
        each = F.logsigmoid(sign * teacher_logits / temperature)
        teacher = each[0] if len(each) == 1 else each.logsumexp(dim=0) - math.log(len(each))
        total = total + F.kl_div(student, teacher, reduction="sum", log_target=True)
    return total / len(student_logits) * temperature**2


def unexplained(student: Tensor, teacher: Tensor) -> Tensor:
    """Share of the variance of a teacher's features that a student's miss, all positions alike.

    0 for the teacher's features themselves, 1 for their means; no unit, whatever theirs is.

    Args:
        student, teacher: `(batch, width)`.
    """
    spread = (teacher - teacher.mean(dim=0)).square().mean()
    return (student - teacher).square().mean() / spread.clamp(min=torch.finfo(spread.dtype).eps)


def blend(kd: Tensor, ce: Tensor, kd_weight: float) -> dict[str, Tensor]:
    """The terms of a distilling strategy, with `loss = kd_weight * kd + (1 - kd_weight) * ce`."""
    return {"loss": kd_weight * kd + (1.0 - kd_weight) * ce, "kd": kd, "ce": ce}


def corrupt_labels(labels: Tensor, num_classes: int, rate: float, draws: Draws) -> Tensor:
    """Replaces each label, with probability `rate`, by another class drawn uniformly.

    Args:
        labels: Class indices or probabilities; a replaced row of probabilities becomes one-hot.
            Its own class is then the one of highest probability.

    Returns:
        Labels of the same shape and type.
    """
    u = draws.uniform("label_noise", 2)
    hit = to_device(u[:, 0] < rate, labels.device)
    shift = to_device(1 + (u[:, 1] * (num_classes - 1)).astype(np.int64), labels.device)
    own = labels if labels.ndim == 1 else labels.argmax(dim=1)
    other = (own + shift) % num_classes
    if labels.ndim == 1:
        return torch.where(hit, other, labels)
    return torch.where(hit[:, None], F.one_hot(other, num_classes).to(labels.dtype), labels)


def corrupt_cells(labels: Tensor, rate: float, draws: Draws) -> Tensor:
    """Replaces each cell of `(batch, num_classes)` by its complement, with probability `rate`."""
    hit = to_device(draws.uniform("label_noise", labels.shape[1]) < rate, labels.device)
    return torch.where(hit, 1.0 - labels, labels)


def mix(values: Tensor, partner: Tensor, share: Tensor | float) -> Tensor:
    """MixUp: `share` of each, the rest its partner (Zhang et al., 2017, arXiv:1710.09412)."""
    return values * share + partner * (1.0 - share)


def log_mixture(log_probs: Tensor, share: float) -> Tensor:
    """Logarithms of `share` of each sample's probabilities and the rest of those before it.

    Args:
        log_probs: `(teachers, batch, num_classes)`.
    """
    own, others = (math.log(part) if part > 0 else -math.inf for part in (share, 1.0 - share))
    return torch.logaddexp(log_probs + own, log_probs.roll(1, 1) + others)


def mix_labels(
    labels: Tensor, weights: Tensor | None, share: float
) -> tuple[Tensor, Tensor | None]:
    """MixUp of each sample's label with that of the sample before it.

    A weighted label has the weight of its parts: what comes from a sample of weight 0 is nothing.

    Args:
        labels: Probabilities `(batch, num_classes)`.
        weights: `(batch,)` or `(batch, num_classes)`; None for all 1.

    Returns:
        Labels and weights of the mixtures.
    """
    if weights is None:
        return mix(labels, labels.roll(1, 0), share), None
    total = mix(weights, weights.roll(1, 0), share)
    cells = weights if weights.ndim == 2 else weights[:, None]
    mass, whole = labels * cells, mix(cells, cells.roll(1, 0), share)
    tiny = torch.finfo(whole.dtype).tiny
    return mix(mass, mass.roll(1, 0), share) / whole.clamp(min=tiny), total
