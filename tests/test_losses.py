"""Losses by hand, against torch in float64 and timm's task; KD_Lib's defects as regressions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.data.views.draws import Draws
from distill.strategies.losses import (
    blend,
    corrupt_labels,
    cross_entropy,
    distillation_kl,
    mix,
    weighted_mean,
)

LN2, LN3 = math.log(2), math.log(3)


def random_logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def draws(count: int, step: int = 0) -> Draws:
    return Draws(0, np.arange(count), step)


def test_weighted_mean() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert float(weighted_mean(values, None)) == 3.0  # 9 / 3
    # (3 * 1 + 1 * 2 + 1 * 6) / (3 + 1 + 1) = 11 / 5
    assert float(weighted_mean(values, torch.tensor([3.0, 1.0, 1.0]))) == pytest.approx(2.2)


def test_cross_entropy_by_hand() -> None:
    # Softmax of (ln 3, 0) is (3/4, 1/4); of (0, 0) it is (1/2, 1/2).
    logits = torch.tensor([[LN3, 0.0], [0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    # -ln 1/4 = 2 ln 2 and -ln 1/2 = ln 2: mean 3/2 ln 2
    assert float(cross_entropy(logits, labels)) == pytest.approx(1.5 * LN2)
    # Weights 3 : 1 make it (3 * 2 ln 2 + ln 2) / 4 = 7/4 ln 2.
    weights = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert float(cross_entropy(logits, labels, weights)) == pytest.approx(1.75 * LN2)
    # They weigh as torch weighs classes.
    logits, labels = random_logits(8, 3), torch.arange(8) % 3
    classes = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    expected = F.cross_entropy(logits, labels, weight=classes)
    torch.testing.assert_close(cross_entropy(logits, labels, classes[labels]), expected)


def test_cross_entropy_takes_probabilities() -> None:
    logits = torch.tensor([[LN3, 0.0]], dtype=torch.float64)
    soft = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    # -(ln 3/4 + ln 1/4) / 2 = (4 ln 2 - ln 3) / 2
    assert float(cross_entropy(logits, soft)) == pytest.approx((4 * LN2 - LN3) / 2)
    many, labels = random_logits(8, 5), torch.arange(8) % 5
    hard = cross_entropy(many, labels)
    torch.testing.assert_close(cross_entropy(many, F.one_hot(labels, 5).double()), hard)


def test_distillation_kl_by_hand() -> None:
    # At T = 2 the teacher's logits (2 ln 3, 0) soften to (3/4, 1/4); the student's are (1/2, 1/2).
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 3/4 ln 3 - ln 2, times T² = 4: 3 ln 3 - 4 ln 2.
    teacher = torch.tensor([[[2 * LN3, 0.0]]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    assert float(distillation_kl(student, teacher, 2.0)) == pytest.approx(3 * LN3 - 4 * LN2)
    # A second sample that agrees halves the mean: the sum is over classes only.
    two = distillation_kl(student.repeat(2, 1), torch.cat([teacher, student[None]], dim=1), 2.0)
    assert float(two) == pytest.approx((3 * LN3 - 4 * LN2) / 2)


def test_several_teachers_by_hand() -> None:
    # (3/4, 1/4) and (1/4, 3/4) average to (1/2, 1/2), which is what the student says.
    # Averaged logits would agree too, so the third teacher breaks the symmetry.
    opposed = torch.tensor([[[LN3, 0.0]], [[0.0, LN3]]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    assert float(distillation_kl(student, opposed, 1.0)) == pytest.approx(0.0, abs=1e-12)
    # With (9/10, 1/10): probabilities average to (19/30, 11/30).
    third = torch.tensor([[[math.log(9), 0.0]]], dtype=torch.float64)
    p, q = 19 / 30, 11 / 30
    expected = p * math.log(2 * p) + q * math.log(2 * q)
    assert float(distillation_kl(student, torch.cat([opposed, third]), 1.0)) == pytest.approx(
        expected, abs=1e-12
    )


def test_distillation_kl_equals_torch_in_float64() -> None:
    """KD_Lib's `KLDivLoss()` averages over classes too, and is `classes` times too weak."""
    for temperature in (0.5, 1.0, 4.0, 20.0):
        for batch, classes in ((1, 2), (7, 3), (16, 100)):
            student = random_logits(batch, classes)
            teacher = random_logits(1, batch, classes, seed=1)
            expected = temperature**2 * F.kl_div(
                F.log_softmax(student / temperature, dim=1),
                F.softmax(teacher[0] / temperature, dim=1),
                reduction="batchmean",
            )
            found = distillation_kl(student, teacher, temperature)
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
            single = distillation_kl(student.float(), teacher.float(), temperature)
            torch.testing.assert_close(single.double(), expected, atol=1e-6, rtol=1e-5)


def test_several_teachers_are_the_average_of_their_softened_probabilities() -> None:
    for teachers in (2, 3, 5):
        student, teacher = random_logits(6, 4), random_logits(teachers, 6, 4, seed=1)
        average = F.softmax(teacher / 3.0, dim=-1).mean(dim=0)
        expected = 9.0 * F.kl_div(
            F.log_softmax(student / 3.0, dim=1), average, reduction="batchmean"
        )
        found = distillation_kl(student, teacher, 3.0)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_a_teacher_asked_twice_says_the_same() -> None:
    """The number of teachers went through float32: the loss of equal logits fell below zero."""
    student, teacher = random_logits(6, 4), random_logits(1, 6, 4, seed=1)
    once, twice = (distillation_kl(student, teacher.repeat(n, 1, 1), 2.0) for n in (1, 2))
    torch.testing.assert_close(once, twice, atol=1e-12, rtol=1e-12)


def test_distillation_kl_is_zero_only_where_both_agree() -> None:
    student = random_logits(5, 3)
    assert float(distillation_kl(student, student[None], 4.0)) == pytest.approx(0.0, abs=1e-14)
    # Logits are equal up to a constant per sample.
    assert float(distillation_kl(student, student[None] + 7.0, 4.0)) == pytest.approx(
        0.0, abs=1e-12
    )
    assert float(distillation_kl(student, random_logits(1, 5, 3, seed=2), 4.0)) > 1e-3


def test_extreme_logits_stay_finite() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    for teachers in (1, 2):
        teacher = torch.tensor([[[-1e4, 1e4, 0.0]]]).repeat(teachers, 1, 1)
        loss = distillation_kl(student, teacher, 1.0)
        loss.backward()
        assert bool(torch.isfinite(loss))
        assert bool(torch.isfinite(student.grad).all())


class Fixed(nn.Module):
    """A model that always gives the same logits, as timm's task asks for one."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.num_classes, self.in_chans = logits.shape[1], 3

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def test_the_loss_of_timms_distillation_task() -> None:
    distillation = pytest.importorskip("timm.task.distillation", reason="timm without tasks")
    student, teacher, labels = random_logits(8, 5), random_logits(8, 5, seed=1), torch.arange(8) % 5
    task = distillation.LogitDistillationTask(
        Fixed(student),
        Fixed(teacher),
        criterion=nn.CrossEntropyLoss(),
        task_loss_weight=0.3,
        temperature=4.0,
        dtype=torch.float64,
        verbose=False,
    )
    theirs = task(torch.zeros(8, 3, 4, 4, dtype=torch.float64), labels)
    kd, ce = distillation_kl(student, teacher[None], 4.0), cross_entropy(student, labels)
    torch.testing.assert_close(kd, theirs["kd_loss"].detach())
    torch.testing.assert_close(ce, theirs["task_loss"].detach())
    torch.testing.assert_close(blend(kd, ce, 0.7)["loss"], theirs["loss"].detach())


def test_blend_and_mix() -> None:
    terms = blend(torch.tensor(2.0), torch.tensor(10.0), 0.75)
    assert {name: float(term) for name, term in terms.items()} == {
        "loss": 4.0,  # 0.75 * 2 + 0.25 * 10
        "kd": 2.0,
        "ce": 10.0,
    }
    values, partner = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert mix(values, partner, 0.75).tolist() == [[0.75, 0.25]]


def test_labels_are_corrupted_at_the_rate() -> None:
    labels = torch.arange(5000) % 5
    for rate in (0.05, 0.5, 0.9):
        before = labels.clone()
        changed = int((corrupt_labels(labels, 5, rate, draws(5000)) != labels).sum())
        assert abs(changed - 5000 * rate) < 5 * math.sqrt(5000 * rate * (1 - rate))
        assert torch.equal(labels, before)


def test_a_rate_of_one_changes_every_label_and_of_zero_none() -> None:
    """A replacement is never the class itself, and every other class is equally likely."""
    labels = torch.arange(6000) % 4
    assert torch.equal(corrupt_labels(labels, 4, 0.0, draws(6000)), labels)
    messy = corrupt_labels(labels, 4, 1.0, draws(6000))
    assert not bool((messy == labels).any())
    shifts = torch.bincount((messy - labels) % 4, minlength=4)
    # 2,000 each, standard deviation sqrt(6000 * 2/9) = 37
    assert shifts[0] == 0
    assert bool(((shifts[1:] - 2000).abs() < 185).all())


def test_two_classes_are_swapped() -> None:
    """KD_Lib draws the class from the number of image channels: with two classes it crashes."""
    labels = torch.tensor([0, 1, 1, 0])
    assert corrupt_labels(labels, 2, 1.0, draws(4)).tolist() == [1, 0, 0, 1]


def test_every_row_can_be_hit() -> None:
    """KD_Lib corrupts the first rows of every batch."""
    labels = torch.zeros(16, dtype=torch.int64)
    hits = torch.stack([corrupt_labels(labels, 3, 0.25, draws(16, step)) for step in range(400)])
    counts = (hits != 0).sum(dim=0)  # 100 each, standard deviation sqrt(400 * 3/16) = 8.7
    assert bool(((counts - 100).abs() < 45).all())


def test_a_low_rate_hits_small_batches_sometimes() -> None:
    """KD_Lib hits `int(rate * batch)` rows, which is none at its default."""
    labels = torch.zeros(8, dtype=torch.int64)
    hits = [int(corrupt_labels(labels, 3, 0.02, draws(8, step)).ne(0).sum()) for step in range(500)]
    # 500 * 8 * 0.02 = 80 labels, standard deviation 8.9
    assert 35 < sum(hits) < 125


def test_a_label_is_hit_whatever_batch_it_comes_in() -> None:
    labels = torch.arange(20) % 4
    whole = corrupt_labels(labels, 4, 0.5, draws(20))
    ids = np.array([13, 2, 7])
    few = corrupt_labels(labels[ids], 4, 0.5, Draws(0, ids, 0))
    assert torch.equal(few, whole[ids])
    assert not torch.equal(corrupt_labels(labels, 4, 0.5, draws(20, step=1)), whole)


def test_soft_labels_become_one_hot_where_they_are_hit() -> None:
    soft = F.softmax(random_logits(1000, 4), dim=1)
    before, hard = soft.clone(), soft.argmax(dim=1)
    messy, expected = (corrupt_labels(x, 4, 0.3, draws(1000)) for x in (soft, hard))
    assert torch.equal(soft, before)
    assert messy.dtype == soft.dtype
    hit = expected != hard
    assert 200 < int(hit.sum()) < 400
    assert torch.equal(messy[~hit], soft[~hit])
    assert torch.equal(messy[hit], F.one_hot(expected[hit], 4).to(soft.dtype))
