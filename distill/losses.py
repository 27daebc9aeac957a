"""Pure tensor functions that strategies are made of; results are means over the batch, in nats.

Logits are `(batch, num_classes)`; labels are class indices `(batch,)` or probabilities
`(batch, num_classes)`; sample weights are `(batch,)`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.draws import Draws


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of per-sample values `(batch,)`, weighted if there are weights; 0 if all weigh 0."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with class indices or probabilities as labels."""
    return weighted_mean(F.cross_entropy(logits, labels, reduction="none"), weights)


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
    hit = torch.from_numpy(u[:, 0] < rate).to(labels.device)
    shift = torch.from_numpy(1 + (u[:, 1] * (num_classes - 1)).astype(np.int64)).to(labels.device)
    own = labels if labels.ndim == 1 else labels.argmax(dim=1)
    other = (own + shift) % num_classes
    if labels.ndim == 1:
        return torch.where(hit, other, labels)
    return torch.where(hit[:, None], F.one_hot(other, num_classes).to(labels.dtype), labels)


def mix(values: Tensor, partner: Tensor, share: Tensor | float) -> Tensor:
    """MixUp: `share` of each, the rest its partner (Zhang et al., 2017, arXiv:1710.09412)."""
    return values * share + partner * (1.0 - share)


def mix_labels(
    labels: Tensor, weights: Tensor | None, share: float
) -> tuple[Tensor, Tensor | None]:
    """MixUp of each sample's label with that of the sample before it.

    A weighted label has the weight of its parts: what comes from a sample of weight 0 is nothing.

    Args:
        labels: Probabilities `(batch, num_classes)`.
        weights: `(batch,)`, or None for all 1.

    Returns:
        Labels and weights of the mixtures.
    """
    if weights is None:
        return mix(labels, labels.roll(1, 0), share), None
    mass = labels * weights[:, None]
    total = mix(weights, weights.roll(1, 0), share)
    tiny = torch.finfo(total.dtype).tiny
    return mix(mass, mass.roll(1, 0), share) / total.clamp(min=tiny)[:, None], total
