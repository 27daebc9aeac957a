"""One class or several labels: losses by hand, against torch and torchvision in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from distill.data.views.draws import Draws
from distill.strategies.losses import mix_labels
from distill.strategies.objective import SOFTMAX, Objective, Sigmoid, Softmax, make_objective

LN2, LN3 = math.log(2), math.log(3)
SIGMOID = Sigmoid()


def random_logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_labels(batch: int, classes: int, seed: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, classes, generator=generator) < 0.4).double()


def wide(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draws(count: int, step: int = 0) -> Draws:
    return Draws(0, np.arange(count), step)


def pairs(logits: Tensor) -> Tensor:
    """Logits of yes and no `(..., 2)` whose softmax is the sigmoid and its complement."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


def test_the_objective_of_a_task() -> None:
    assert make_objective("single") == SOFTMAX == Softmax()
    assert make_objective("multi", 2.0) == Sigmoid(focal_gamma=2.0)


def test_label_loss_by_hand() -> None:
    # Sigmoid of ln 3 is 3/4, of 0 it is 1/2. Labels (no, yes) of logits (ln 3, 0):
    # -ln 1/4 - ln 1/2 = 3 ln 2; labels (yes, yes) of (0, 0): 2 ln 2. Mean 5/2 ln 2.
    logits, labels = wide([[LN3, 0.0], [0.0, 0.0]]), wide([[0.0, 1.0], [1.0, 1.0]])
    assert float(SIGMOID.label_loss(logits, labels, None)) == pytest.approx(2.5 * LN2)
    # Samples that weigh 3 : 1 make it (3 * 3 + 2) / 4 ln 2.
    weighted = SIGMOID.label_loss(logits, labels, wide([3.0, 1.0]))
    assert float(weighted) == pytest.approx(11 / 4 * LN2)
    # Cells are 2 ln 2, ln 2; ln 2, ln 2. The first one twice: (4 + 1 + 1 + 1) ln 2 of 5 cells,
    # times 2 labels.
    cells = SIGMOID.label_loss(logits, labels, wide([[2.0, 1.0], [1.0, 1.0]]))
    assert float(cells) == pytest.approx(14 / 5 * LN2)


def test_sample_weights_are_cell_weights_that_are_the_same_for_all_labels() -> None:
    logits, labels = random_logits(8, 5), random_labels(8, 5)
    weights = torch.linspace(0.0, 2.0, 8, dtype=torch.float64)
    both = [SIGMOID.label_loss(logits, labels, w) for w in (weights, weights[:, None].repeat(1, 5))]
    torch.testing.assert_close(*both, atol=1e-12, rtol=1e-12)
    # What weighs nothing might as well not be there.
    without = SIGMOID.label_loss(logits[1:], labels[1:], weights[1:])
    torch.testing.assert_close(both[0], without, atol=1e-12, rtol=1e-12)
    assert float(SIGMOID.label_loss(logits, labels, 0.0 * weights)) == 0.0


def test_label_loss_is_torchs_binary_cross_entropy() -> None:
    """Summed over labels; torch's mean over cells makes it `classes` times too weak."""
    for batch, classes in ((1, 1), (7, 3), (16, 40)):
        logits, labels = random_logits(batch, classes), random_labels(batch, classes)
        expected = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / batch
        found = SIGMOID.label_loss(logits, labels, None)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
        soft = torch.rand(batch, classes, dtype=torch.float64)
        expected = F.binary_cross_entropy_with_logits(logits, soft, reduction="sum") / batch
        torch.testing.assert_close(SIGMOID.label_loss(logits, soft, None), expected)


def test_positive_weights_are_torchs() -> None:
    logits, labels = random_logits(8, 3), random_labels(8, 3)
    positive = wide([3.0, 1.0, 0.5])
    weights = SIGMOID.label_weights(labels.long(), positive)
    assert torch.equal(weights, torch.where(labels == 1, positive, torch.ones(8, 3).double()))
    expected = F.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=positive, reduction="sum"
    )
    found = SIGMOID.label_loss(logits, labels, weights)
    torch.testing.assert_close(found, expected / weights.mean() / 8)


def test_focal_label_loss_is_torchvisions() -> None:
    logits, labels = random_logits(8, 3), random_labels(8, 3)
    question, answer = random_logits(20), random_labels(20, 1)[:, 0]
    for gamma in (0.5, 1.0, 2.0, 5.0):
        expected = sigmoid_focal_loss(logits, labels, alpha=-1, gamma=gamma, reduction="sum") / 8
        found = Sigmoid(gamma).label_loss(logits, labels, None)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
        # One question is a choice of two classes.
        expected = sigmoid_focal_loss(question, answer, alpha=-1, gamma=gamma, reduction="mean")
        found = Softmax(gamma).label_loss(pairs(question), 1 - answer.long(), None)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_focal_by_hand() -> None:
    # p = 3/4, γ = 2: (1/4)² ln 4/3 where the label is that class, (3/4)² ln 4 where it is not.
    logits = wide([[LN3, 0.0]])
    yes, no = (float(Softmax(2.0).label_loss(logits, torch.tensor([y]), None)) for y in (0, 1))
    assert yes == pytest.approx(math.log(4 / 3) / 16)
    assert no == pytest.approx(9 / 16 * math.log(4))
    assert float(Sigmoid(2.0).label_loss(wide([[LN3]]), wide([[1.0]]), None)) == pytest.approx(yes)
    assert float(Sigmoid(2.0).label_loss(wide([[LN3]]), wide([[0.0]]), None)) == pytest.approx(no)


def test_the_loss_of_a_soft_label_is_the_mean_of_its_answers_losses() -> None:
    logits = random_logits(6, 4)
    classes = torch.eye(4)[[0, 1, 2, 3, 0, 1]], torch.eye(4)[[3, 2, 2, 0, 0, 0]]
    cells = random_labels(6, 4), random_labels(6, 4, seed=5)
    for gamma in (0.0, 0.5, 2.0):
        for objective, answers in ((Softmax(gamma), classes), (Sigmoid(gamma), cells)):
            one, other = (labels.double() for labels in answers)
            mixed = objective.label_loss(logits, 0.3 * one + 0.7 * other, None)
            apart = [objective.label_loss(logits, labels, None) for labels in (one, other)]
            torch.testing.assert_close(mixed, 0.3 * apart[0] + 0.7 * apart[1])


def test_hard_and_one_hot_labels_have_the_same_focal_loss() -> None:
    logits, labels = random_logits(8, 5), torch.arange(8) % 5
    weights = torch.linspace(0.5, 2.0, 8, dtype=torch.float64)
    one_hot = F.one_hot(labels, 5).double()
    found = [Softmax(2.0).label_loss(logits, y, weights) for y in (labels, one_hot)]
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-12)
    assert found[0] < Softmax().label_loss(logits, labels, weights)


def test_losses_of_extreme_logits_stay_finite() -> None:
    """A power below 1 has an infinite slope at 0, where a class is certain."""
    certain = torch.tensor([[1e4, -1e4, 0.0], [80.0, 0.0, -80.0], [1e-9, 0.0, 0.0]])
    for gamma in (0.0, 0.3, 2.0):
        for objective, labels in (
            (Softmax(gamma), torch.tensor([0, 0, 1])),
            (Softmax(gamma), torch.tensor([1, 2, 2])),
            (Softmax(gamma), torch.full((3, 3), 1 / 3)),
            (Sigmoid(gamma), torch.eye(3)),
            (Sigmoid(gamma), 1.0 - torch.eye(3)),
        ):
            logits = certain.clone().requires_grad_()
            loss = objective.label_loss(logits, labels, None)
            loss.backward()
            assert bool(torch.isfinite(loss))
            assert bool(torch.isfinite(logits.grad).all())
    for teachers in (1, 2):
        student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
        teacher = torch.tensor([[[-1e4, 1e4, 0.0]]]).repeat(teachers, 1, 1)
        loss = SIGMOID.distance(student, teacher, 1.0)
        loss.backward()
        assert bool(torch.isfinite(loss))
        assert bool(torch.isfinite(student.grad).all())


def test_distance_by_hand() -> None:
    # At T = 2 the teacher's 2 ln 3 softens to 3/4, the student's 0 is 1/2.
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 3/4 ln 3 - ln 2, times T² = 4: 3 ln 3 - 4 ln 2.
    teacher, student = wide([[[2 * LN3, 0.0]]]), wide([[0.0, 0.0]])
    expected = 3 * LN3 - 4 * LN2
    assert float(SIGMOID.distance(student, teacher, 2.0)) == pytest.approx(expected)
    # The second label agreed and added nothing; as opposed as the first, it adds as much.
    both = SIGMOID.distance(student, wide([[[2 * LN3, -2 * LN3]]]), 2.0)
    assert float(both) == pytest.approx(2 * expected)
    # A second image that agrees halves the mean.
    two = SIGMOID.distance(student.repeat(2, 1), torch.cat([teacher, student[None]], 1), 2.0)
    assert float(two) == pytest.approx(expected / 2)


def test_distance_is_torchs_kl_of_bernoulli_pairs() -> None:
    for t in (0.5, 1.0, 4.0, 20.0):
        for batch, classes in ((1, 1), (7, 3), (16, 40)):
            student = random_logits(batch, classes)
            teacher = random_logits(1, batch, classes, seed=1)
            p, q = torch.sigmoid(teacher[0] / t), torch.sigmoid(student / t)
            expected = t**2 * F.kl_div(
                torch.stack([q, 1 - q]).log(), torch.stack([p, 1 - p]), reduction="sum"
            )
            found = SIGMOID.distance(student, teacher, t)
            torch.testing.assert_close(found, expected / batch, atol=1e-10, rtol=1e-10)
            # A question is a choice of two classes.
            choice = [pairs(x).reshape(*x.shape[:-2], -1, 2) for x in (student, teacher)]
            expected = SOFTMAX.distance(*choice, t) * classes
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_several_teachers_probabilities_are_averaged() -> None:
    # 3/4 and 1/4 average to 1/2, which is what the student says.
    opposed = wide([[[LN3]], [[-LN3]]])
    assert float(SIGMOID.distance(wide([[0.0]]), opposed, 1.0)) == pytest.approx(0.0, abs=1e-12)
    student, teacher = random_logits(6, 4), random_logits(3, 6, 4, seed=1)
    average = torch.sigmoid(teacher / 3.0).mean(dim=0)
    found = SIGMOID.distance(student, teacher, 3.0)
    expected = SIGMOID.distance(student, 3.0 * torch.logit(average)[None], 3.0)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_cells_are_turned_round_at_the_rate() -> None:
    labels = random_labels(1000, 5)
    for rate in (0.05, 0.5, 0.9):
        changed = SIGMOID.corrupt(labels, 5, rate, draws(1000)) != labels
        assert abs(int(changed.sum()) - 5000 * rate) < 5 * math.sqrt(5000 * rate * (1 - rate))
        # Of each label on its own: 1,000 cells each.
        spread = 5 * math.sqrt(1000 * rate * (1 - rate))
        assert bool(((changed.sum(dim=0) - 1000 * rate).abs() < spread).all())


def test_a_cell_becomes_its_complement() -> None:
    soft = torch.rand(50, 4)
    before = soft.clone()
    assert torch.equal(SIGMOID.corrupt(soft, 4, 1.0, draws(50)), 1.0 - soft)
    assert torch.equal(SIGMOID.corrupt(soft, 4, 0.0, draws(50)), soft)
    assert torch.equal(soft, before)


def test_cells_are_hit_whatever_batch_they_come_in() -> None:
    labels = random_labels(20, 4)
    whole = SIGMOID.corrupt(labels, 4, 0.5, draws(20))
    ids = np.array([13, 2, 7])
    assert torch.equal(SIGMOID.corrupt(labels[ids], 4, 0.5, Draws(0, ids, 0)), whole[ids])
    assert not torch.equal(SIGMOID.corrupt(labels, 4, 0.5, draws(20, step=1)), whole)


def test_targets_and_weights_by_hand() -> None:
    labels = torch.tensor([2, 0])
    assert torch.equal(SOFTMAX.targets(labels, 3, 0.0, False), labels)
    assert SOFTMAX.targets(labels, 3, 0.0, True).tolist() == [[0, 0, 1], [1, 0, 0]]
    # 0.3 shared by three classes is 0.1 each; by yes and no it is 0.15 each.
    smooth = SOFTMAX.targets(labels, 3, 0.3, False)
    torch.testing.assert_close(smooth, torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]))
    cells = torch.tensor([[0, 1]])
    assert SIGMOID.targets(cells, 2, 0.0, False).tolist() == [[0.0, 1.0]]
    torch.testing.assert_close(SIGMOID.targets(cells, 2, 0.3, False), torch.tensor([[0.15, 0.85]]))
    # A sample weighs as its class.
    assert SOFTMAX.label_weights(labels, torch.tensor([3.0, 1.0, 0.5])).tolist() == [0.5, 3.0]
    # Smoothing is torch's; labels are float32.
    logits, labels = random_logits(8, 5), torch.arange(8) % 5
    found = SOFTMAX.label_loss(logits, SOFTMAX.targets(labels, 5, 0.1, False).double(), None)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("objective", [Softmax(), Sigmoid(), Sigmoid(2.0)], ids=repr)
def test_a_weighted_mixture_is_the_mixture_of_weighted_losses(objective: Objective) -> None:
    """Weights of cells are mixed with their labels, so that a heavy part counts as such."""
    logits, share = random_logits(6, 4), 0.3
    if isinstance(objective, Softmax):
        labels = F.one_hot(torch.arange(6) % 4, 4).double()
        weights = torch.linspace(0.0, 2.0, 6, dtype=torch.float64)
    else:
        labels = random_labels(6, 4)
        weights = objective.label_weights(labels, wide([4.0, 1.0, 0.5, 2.0]))
        weights[0] = 0.0  # unlabelled
    mixed, total = mix_labels(labels, weights, share)
    found = objective.label_loss(logits, mixed, total)
    parts = [
        objective.label_loss(logits, labels.roll(turn, 0), weights.roll(turn, 0)) for turn in (0, 1)
    ]
    torch.testing.assert_close(found, share * parts[0] + (1 - share) * parts[1])
