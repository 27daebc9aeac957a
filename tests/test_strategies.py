"""The contract of a strategy, held over the folder, and the defects of KD_Lib that it rules out."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.config import StrategyConfig
from distill.data.views.draws import Draws
from distill.errors import UserError
from distill.registry import names_in
from distill.strategies import Lesson, Strategy, make_strategy
from distill.strategies.logit_standardisation import standardised
from distill.strategies.objective import SOFTMAX, Sigmoid, Softmax

BATCH, CLASSES = 12, 5
NAMES = names_in("strategies", "Strategy")
TAUGHT = [n for n in NAMES if make_strategy(StrategyConfig(name=n)).taught_by != "nobody"]
TEMPERED = [
    name
    for name in TAUGHT
    if "temperature" in type(make_strategy(StrategyConfig(name=name))).model_fields
]
HINTON = ["vanilla", "noisy_teacher", "self_training", "messy_collaboration"]  # vanilla's loss
MULTI = [n for n in NAMES if "multi" in make_strategy(StrategyConfig(name=n)).tasks]
MULTI_TAUGHT = [name for name in TAUGHT if name in MULTI]
SIGMOID = Sigmoid()
RANDOM = {"label_noise": 0.0, "noise_std": 0.0}  # options that make a strategy random, switched off


def make(name: str, **options: Any) -> Strategy:
    """The strategy with those of the options that it declares."""
    declared = type(make_strategy(StrategyConfig(name=name))).model_fields
    known = {key: value for key, value in options.items() if key in declared}
    return make_strategy(StrategyConfig(name=name, **known))


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def draws(count: int = BATCH, step: int = 0, seed: int = 0) -> Draws:
    return Draws(seed, np.arange(count), step)


def labels_of(count: int = BATCH, classes: int = CLASSES) -> Tensor:
    return torch.arange(count) % classes


def kd_gradient(strategy: Strategy, student: Tensor, teacher: Tensor) -> Tensor:
    """Gradient of the teacher's term in the student's logits."""
    student = student.clone().requires_grad_()
    batch, classes = student.shape
    terms = strategy(Lesson(student, teacher, labels_of(batch, classes), None, draws(batch)))
    (gradient,) = torch.autograd.grad(terms["kd"], student)
    return gradient


def assert_repeated(
    terms: dict[str, Tensor], again: dict[str, Tensor], narrow: dict[str, Tensor]
) -> None:
    """Finite scalars, the same when asked again and, nearly, from float32."""
    for key, term in terms.items():
        assert term.shape == ()
        assert bool(torch.isfinite(term))
        assert torch.equal(again[key], term)
        assert narrow[key].dtype == torch.float32
        torch.testing.assert_close(narrow[key].double(), term, atol=1e-6, rtol=1e-5)


def test_the_folder_holds_the_four_methods_and_supervised() -> None:
    assert set(HINTON) <= set(TEMPERED) <= set(TAUGHT)
    assert "supervised" in set(NAMES) - set(TAUGHT)


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_finite_scalars_and_a_pure_function(name: str) -> None:
    """Of the lesson and its draws, and nearly the same in float32."""
    student, teacher = logits(BATCH, CLASSES).requires_grad_(), logits(2, BATCH, CLASSES, seed=1)
    terms = make(name)(Lesson(student, teacher, labels_of(), None, draws()))
    assert {"loss", "ce"} <= set(terms)
    torch.manual_seed(123)
    again = make(name)(Lesson(student, teacher, labels_of(), None, draws()))
    narrow = make(name)(Lesson(student.float(), teacher.float(), labels_of(), None, draws()))
    assert_repeated(terms, again, narrow)
    terms["loss"].backward()
    assert bool((student.grad.abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize("name", TAUGHT)
def test_no_gradient_where_the_student_equals_its_teacher(name: str) -> None:
    """KD_Lib's noisy teacher compares log-probabilities with probabilities: it never is at rest."""
    student = logits(BATCH, CLASSES)
    quiet = make(name, **RANDOM)
    assert kd_gradient(quiet, student, student[None]).abs().max() < 1e-12
    # The same where two teachers agree, and not where the student differs.
    assert kd_gradient(quiet, student, student.repeat(2, 1, 1)).abs().max() < 1e-12
    assert kd_gradient(quiet, student, logits(1, BATCH, CLASSES, seed=1)).abs().max() > 1e-3
    # It reaches the student only, and nothing is changed in place.
    given = logits(1, BATCH, CLASSES, seed=1), labels_of(), torch.ones(BATCH, dtype=torch.float64)
    before = [tensor.clone() for tensor in given]
    make(name)(Lesson(student.requires_grad_(), *given, draws()))["loss"].backward()
    assert bool(student.grad.abs().sum() > 0)
    assert given[0].grad is None
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


@pytest.mark.parametrize("name", TEMPERED)
def test_gradient_scale_does_not_depend_on_temperature(name: str) -> None:
    """At high T the gradient tends to (student - teacher) / classes (Hinton et al., eq. 4).

    Without T² it would fall 16-fold from T = 2 to T = 8; with it, small logits change it by less
    than a tenth. KD_Lib's self-training has neither T² nor a temperature on the student.
    """
    student, teacher = logits(64, 10, scale=0.5), logits(1, 64, 10, seed=1, scale=0.5)
    norms = [
        float(kd_gradient(make(name, temperature=t, **RANDOM), student, teacher).norm())
        for t in (2.0, 4.0, 8.0)
    ]
    assert max(norms) / min(norms) < 1.1
    with pytest.raises(UserError, match="temperature"):
        make_strategy(StrategyConfig(name=name, temperature=0))


@pytest.mark.parametrize("name", HINTON)
def test_the_terms_are_hintons_in_float64(name: str) -> None:
    """T² KL(teacher || student) and cross-entropy, temperature on both sides, labels at T = 1."""
    student, teacher = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
    strategy = make(name, temperature=3.0, **RANDOM)
    terms = strategy(Lesson(student, teacher, labels_of(), None, draws()))
    p, q = (x.div(3.0).softmax(dim=1) for x in (teacher[0], student))
    kl = (p * (p.log() - q.log())).sum(dim=1).mean()
    torch.testing.assert_close(terms["kd"], 9.0 * kl, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(student, labels_of()))
    # The limit of high temperatures.
    student, teacher = logits(8, 4), logits(1, 8, 4, seed=1)
    student, teacher = (x - x.mean(dim=-1, keepdim=True) for x in (student, teacher))
    found = kd_gradient(make(name, temperature=1e4, **RANDOM), student, teacher)
    torch.testing.assert_close(found, (student - teacher[0]) / (4 * 8), atol=1e-4, rtol=1e-3)


def disagreement(classes: int) -> tuple[Tensor, Tensor]:
    """A student that is sure of the wrong class, at any number of classes with the same odds."""
    student, teacher = torch.zeros(16, classes), torch.zeros(1, 16, classes)
    # exp(3 + ln(classes - 1)) against (classes - 1) zeros: probability 1 / (1 + e^-3) = 0.95.
    student[:, 0] = teacher[:, :, 1] = 3.0 + float(np.log(classes - 1))
    return student.double(), teacher.double()


# Standardised logits have no scale of their own: theirs is 1 whatever the classes and the odds.
SCALED = [name for name in TAUGHT if name != "logit_standardisation"]


@pytest.mark.parametrize("name", SCALED)
def test_gradient_scale_does_not_depend_on_the_number_of_classes(name: str) -> None:
    """KD_Lib's squared error of probabilities, a mean over classes, falls like 1 / classes."""
    ours, theirs = [], []
    for classes in (2, 10, 100):
        student, teacher = disagreement(classes)
        strategy = make(name, temperature=1.0, **RANDOM)
        ours.append(float(kd_gradient(strategy, student, teacher).norm()))
        leaf = student.clone().requires_grad_()
        F.mse_loss(leaf.softmax(dim=1), teacher[0].softmax(dim=1)).backward()
        theirs.append(float(leaf.grad.norm()))
    assert max(ours) / min(ours) < 1.1
    assert theirs[0] / theirs[2] > 20


@pytest.mark.parametrize("name", TAUGHT)
def test_loss_is_the_weighted_sum_of_its_terms(name: str) -> None:
    lesson = Lesson(
        logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1), labels_of(), None, draws()
    )
    none = make(name, kd_weight=0.0, label_noise=0.0)(lesson)
    assert torch.equal(none["loss"], F.cross_entropy(lesson.student, labels_of()))
    some = make(name, kd_weight=0.3)(lesson)
    torch.testing.assert_close(some["loss"], 0.3 * some["kd"] + 0.7 * some["ce"])
    one = make(name, kd_weight=1.0)(lesson)
    assert torch.equal(one["loss"], one["kd"])
    for value in (-0.1, 1.5, "half", True):
        with pytest.raises(UserError, match="kd_weight"):
            make_strategy(StrategyConfig(name=name, kd_weight=value))


def test_supervised_is_cross_entropy_and_asks_no_teacher() -> None:
    """With label noise it makes a corrupted teacher."""
    student, labels = logits(64, 2), labels_of(64, 2)
    terms = make("supervised")(Lesson(student, None, labels, None, draws(64)))
    assert torch.equal(terms["loss"], F.cross_entropy(student, labels))
    noisy = make("supervised", label_noise=1.0)(Lesson(student, None, labels, None, draws(64)))
    torch.testing.assert_close(noisy["ce"], F.cross_entropy(student, 1 - labels))


@pytest.mark.parametrize("name", NAMES)
def test_neither_order_nor_number_of_samples_matters(name: str) -> None:
    student, teacher = logits(BATCH, CLASSES), logits(2, BATCH, CLASSES, seed=1)
    weights = torch.linspace(0.5, 2.0, BATCH, dtype=torch.float64)
    ids = np.arange(BATCH)
    order = np.random.default_rng(0).permutation(BATCH)
    strategy = make(name, label_noise=0.5)
    straight = strategy(Lesson(student, teacher, labels_of(), weights, Draws(0, ids, 0)))
    given = student[order], teacher[:, order], labels_of()[order], weights[order]
    shuffled = strategy(Lesson(*given, Draws(0, order, 0)))
    for term, value in straight.items():
        torch.testing.assert_close(shuffled[term], value, atol=1e-12, rtol=1e-12)
    strategy = make(name, **RANDOM)
    once = strategy(Lesson(student, teacher, labels_of(), None, draws()))
    given = student.repeat(2, 1), teacher.repeat(1, 2, 1), labels_of().repeat(2)
    twice = strategy(Lesson(*given, None, draws(2 * BATCH)))
    for term, value in once.items():
        torch.testing.assert_close(twice[term], value)


@pytest.mark.parametrize("name", NAMES)
def test_class_weights_and_the_focal_factor_apply_to_labels_only(name: str) -> None:
    """Which may be soft."""
    student, teacher = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
    weights = torch.tensor([3.0, 1.0, 1.0, 0.5, 2.0], dtype=torch.float64)
    strategy, one_hot = make(name, **RANDOM), F.one_hot(labels_of(), CLASSES).double()
    plain = strategy(Lesson(student, teacher, labels_of(), None, draws()))
    weighted = strategy(Lesson(student, teacher, labels_of(), weights[labels_of()], draws()))
    focal = strategy(Lesson(student, teacher, labels_of(), None, draws(), Softmax(2.0)))
    soft = strategy(Lesson(student, teacher, one_hot, None, draws()))
    expected = F.cross_entropy(student, labels_of(), weight=weights)
    torch.testing.assert_close(weighted["ce"], expected)
    assert not torch.isclose(weighted["ce"], plain["ce"])
    assert focal["ce"] < plain["ce"]
    torch.testing.assert_close(soft["loss"], plain["loss"])
    if "kd" in plain:
        assert torch.equal(weighted["kd"], plain["kd"])
        assert torch.equal(focal["kd"], plain["kd"])


def test_an_unknown_strategy_or_option_is_answered_with_the_known_ones() -> None:
    """A strategy of the user's is a dotted module."""
    for name in NAMES:
        with pytest.raises(UserError, match="'alpha'") as caught:
            make_strategy(StrategyConfig(name=name, alpha=0.5))
        assert name in str(caught.value)
        assert all(option in str(caught.value) for option in type(make(name)).model_fields)
    with pytest.raises(UserError, match="'vanila'") as caught:
        make_strategy(StrategyConfig(name="vanila"))
    assert "vanilla" in str(caught.value)
    with pytest.raises(UserError, match=r"nowhere\.at_all"):
        make_strategy(StrategyConfig(name="nowhere.at_all"))
    dotted = make_strategy(StrategyConfig(name="distill.strategies.vanilla"))
    assert type(dotted) is type(make("vanilla"))


def perturbation(share: float, std: float, teachers: int = 1, step: int = 0) -> Tensor:
    """Relative noise `(teachers, 2000, 10)` on logits that are all 1."""
    strategy = make("noisy_teacher", noise_share=share, noise_std=std)
    ones = torch.ones(teachers, 2000, 10, dtype=torch.float64)
    return strategy.perturb(ones, draws(2000, step)) - 1.0


def test_teacher_noise_is_drawn_for_each_sample_and_logit() -> None:
    """KD_Lib draws it once per batch."""
    noise = perturbation(share=1.0, std=0.3, teachers=2)
    assert len(noise.unique()) == noise.numel()
    # 40,000 numbers: standard errors 0.0015 of the mean and 0.0011 of the deviation.
    assert abs(float(noise.mean())) < 0.0075
    assert float(noise.std()) == pytest.approx(0.3, abs=0.006)
    rows = noise.mean(dim=2).std()
    assert float(rows) == pytest.approx(0.3 / 10**0.5, rel=0.1)  # no offset common to a sample
    between = np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]
    assert abs(between) < 0.035  # 20,000 pairs: standard error 0.007


def test_a_share_of_the_samples_is_perturbed() -> None:
    noise = perturbation(share=0.25, std=0.3)[0]
    hit = noise.abs().sum(dim=1) > 0
    assert abs(int(hit.sum()) - 500) < 97  # standard deviation sqrt(2000 * 3/16) = 19.4
    assert bool((noise[hit] != 0).all())  # every logit of a sample that is hit
    assert not perturbation(share=0.0, std=0.3).any()
    assert not perturbation(share=1.0, std=0.0).any()


def test_teacher_noise_is_new_in_every_epoch() -> None:
    first, second = (perturbation(share=0.5, std=0.3, step=step)[0] for step in (0, 1))
    hits = [(noise != 0).any(dim=1) for noise in (first, second)]
    assert 0.15 < float((hits[0] & hits[1]).float().mean()) < 0.35  # 0.25 if independent
    assert not bool((first == second)[hits[0]].any())


@pytest.mark.parametrize("name", TAUGHT)
def test_a_constant_on_the_teachers_logits_means_nothing(name: str) -> None:
    """Relative noise did not know: what a cache gives of mixed images is known up to a constant."""
    student, teacher = logits(BATCH, CLASSES), logits(2, BATCH, CLASSES, seed=1)
    shift = logits(2, BATCH, 1, seed=2) * 10.0
    plain, shifted = (
        make(name)(Lesson(student, given, labels_of(), None, draws()))["loss"]
        for given in (teacher, teacher + shift)
    )
    torch.testing.assert_close(plain, shifted)


def test_a_cached_noisy_teacher_is_the_live_one() -> None:
    """With nothing mixed, their top classes agreed on 42 %."""
    teacher = logits(1, BATCH, CLASSES, seed=1)
    cached = SOFTMAX.mixed(teacher, 1.0)  # MixUp that mixes nothing
    strategy = make("noisy_teacher", noise_share=1.0, noise_std=0.5)
    given = (logits(BATCH, CLASSES), labels_of(), None, draws())
    live, stored = (
        strategy(Lesson(given[0], answers, *given[1:]))["kd"] for answers in (teacher, cached)
    )
    torch.testing.assert_close(live, stored)


def test_teacher_noise_is_relative() -> None:
    strategy = make("noisy_teacher", noise_share=1.0)
    teacher = logits(1, BATCH, CLASSES, seed=1)
    one, ten = (strategy.perturb(scale * teacher, draws()) for scale in (1.0, 10.0))
    torch.testing.assert_close(ten, 10.0 * one)
    zero = torch.zeros(1, BATCH, CLASSES, dtype=torch.float64)
    assert torch.equal(strategy.perturb(zero, draws()), zero)


def test_a_noisy_teacher_teaches_as_its_perturbed_logits_would() -> None:
    student, teacher = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
    noisy = make("noisy_teacher", temperature=4.0, noise_share=1.0, noise_std=0.5)
    perturbed = noisy.perturb(SOFTMAX.centred(teacher), draws())
    expected = kd_gradient(make("vanilla", temperature=4.0), student, perturbed)
    torch.testing.assert_close(kd_gradient(noisy, student, teacher), expected)
    # At rest at the perturbed teacher, not at the clean one.
    assert kd_gradient(noisy, perturbed[0], teacher).abs().max() < 1e-12
    assert kd_gradient(noisy, teacher[0], teacher).abs().max() > 1e-3


def test_self_training_softens_both_sides_and_restores_the_scale() -> None:
    """KD_Lib softens the teacher only, without T²."""
    student, teacher = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
    strategy = make("self_training", temperature=5.0)
    assert strategy.taught_by == "self"
    kd = strategy(Lesson(student, teacher, labels_of(), None, draws()))["kd"]
    soft, hard = ((student / t).log_softmax(dim=1) for t in (5.0, 1.0))
    target = (teacher[0] / 5.0).softmax(dim=1)
    torch.testing.assert_close(kd, 25.0 * F.kl_div(soft, target, reduction="batchmean"))
    assert not torch.isclose(kd, F.kl_div(hard, target, reduction="batchmean"), rtol=0.1)


def test_messy_collaboration_works_with_two_classes() -> None:
    """KD_Lib draws labels from the number of image channels, and crashes at two classes."""
    student, teacher = logits(64, 2), logits(1, 64, 2, seed=1)
    strategy = make("messy_collaboration", label_noise=1.0)
    terms = strategy(Lesson(student, teacher, labels_of(64, 2), None, draws(64)))
    torch.testing.assert_close(terms["ce"], F.cross_entropy(student, 1 - labels_of(64, 2)))


def test_messy_collaboration_corrupts_labels_not_the_teacher() -> None:
    """Others in every epoch."""
    student, teacher = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
    messy, clean = (
        make("messy_collaboration", label_noise=rate)(
            Lesson(student, teacher, labels_of(), None, draws())
        )
        for rate in (0.9, 0.0)
    )
    assert torch.equal(messy["kd"], clean["kd"])
    assert not torch.isclose(messy["ce"], clean["ce"])
    strategy = make("messy_collaboration", label_noise=0.5)
    found = {
        float(strategy(Lesson(student, teacher, labels_of(), None, draws(step=s)))["ce"])
        for s in range(5)
    }
    assert len(found) == 5


def test_standardised_logits_by_hand() -> None:
    """(1, 2, 3): mean 2, variance 2/3, so (-1, 0, 1) * sqrt(3/2)."""
    found = standardised(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    expected = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64) * 1.5**0.5
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_standardising_student_may_have_logits_of_any_size() -> None:
    """A student whose logits are its teacher's times 3 plus 5 has nothing left to learn."""
    teacher = logits(1, BATCH, CLASSES, seed=1)
    gradient = kd_gradient(make("logit_standardisation"), 3.0 * teacher[0] + 5.0, teacher)
    assert float(gradient.abs().max()) < 1e-7


def test_standardising_two_classes_is_refused() -> None:
    with pytest.raises(UserError, match="3 classes"):
        kd_gradient(make("logit_standardisation"), logits(4, 2), logits(1, 4, 2))


class TestSeveralLabels:
    """The contract once more, where each label is a question of its own."""

    @staticmethod
    def labels(batch: int = BATCH, classes: int = CLASSES) -> Tensor:
        generator = torch.Generator().manual_seed(9)
        return (torch.rand(batch, classes, generator=generator) < 0.4).double()

    def terms(
        self, name: str, student: Tensor, teacher: Tensor | None, step: int = 0, **options: Any
    ) -> dict[str, Tensor]:
        batch, classes = student.shape
        labels = self.labels(batch, classes).to(student.dtype)
        return make(name, **options)(
            Lesson(student, teacher, labels, None, draws(batch, step), SIGMOID)
        )

    def kd_gradient(self, name: str, student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        student = student.clone().requires_grad_()
        terms = self.terms(name, student, teacher, **{**RANDOM, **options})
        (gradient,) = torch.autograd.grad(terms["kd"], student)
        return gradient

    def test_all_methods_but_the_one_that_compares_classes_are_here(self) -> None:
        assert set(HINTON) | {"supervised"} <= set(MULTI)
        assert set(NAMES) - set(MULTI) == {"logit_standardisation"}
        with pytest.raises(UserError, match="one label"):
            self.terms(
                "logit_standardisation", logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
            )

    @pytest.mark.parametrize("name", MULTI)
    def test_terms_are_finite_scalars_and_a_pure_function(self, name: str) -> None:
        student = logits(BATCH, CLASSES).requires_grad_()
        teacher = logits(2, BATCH, CLASSES, seed=1)
        terms = self.terms(name, student, teacher)
        assert {"loss", "ce"} <= set(terms)
        torch.manual_seed(123)
        again = self.terms(name, student, teacher)
        narrow = self.terms(name, student.float(), teacher.float())
        assert_repeated(terms, again, narrow)
        terms["loss"].backward()
        assert bool((student.grad != 0).all())

    @pytest.mark.parametrize("name", MULTI_TAUGHT)
    def test_no_gradient_where_the_student_equals_its_teacher(self, name: str) -> None:
        student, other = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
        assert self.kd_gradient(name, student, student[None]).abs().max() < 1e-12
        assert self.kd_gradient(name, student, student.repeat(2, 1, 1)).abs().max() < 1e-12
        assert self.kd_gradient(name, student, other).abs().max() > 1e-3
        # It reaches the student only, and nothing is changed in place.
        given = other, self.labels(), self.labels() + 0.5
        before = [tensor.clone() for tensor in given]
        student.requires_grad_()
        make(name)(Lesson(student, *given, draws(), SIGMOID))["loss"].backward()
        assert bool(student.grad.abs().sum() > 0)
        assert given[0].grad is None
        assert all(torch.equal(one, copy) for one, copy in zip(given, before, strict=True))

    @pytest.mark.parametrize("name", MULTI_TAUGHT)
    def test_gradient_scale_depends_on_neither_temperature_nor_number_of_labels(
        self, name: str
    ) -> None:
        """What a label has to learn from its teacher is the same in whatever company it is."""
        student, teacher = logits(64, 10, scale=0.5), logits(1, 64, 10, seed=1, scale=0.5)
        norms = [
            float(self.kd_gradient(name, student, teacher, temperature=t).norm())
            for t in (2.0, 4.0, 8.0)
        ]
        assert max(norms) / min(norms) < 1.1

        student, teacher = logits(BATCH, 100), logits(1, BATCH, 100, seed=1)
        full = self.kd_gradient(name, student, teacher)
        for classes in (1, 2, 10):
            few = self.kd_gradient(name, student[:, :classes], teacher[:, :, :classes])
            torch.testing.assert_close(few, full[:, :classes], atol=1e-12, rtol=1e-12)
        # At high temperatures: a sigmoid's slope at 0 is 1/4, whatever the number of labels.
        student, teacher = logits(8, 4), logits(1, 8, 4, seed=1)
        found = self.kd_gradient(name, student, teacher, temperature=1e4)
        torch.testing.assert_close(found, (student - teacher[0]) / (4 * 8), atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize("name", MULTI_TAUGHT)
    def test_a_kd_weight_of_zero_is_binary_cross_entropy(self, name: str) -> None:
        student, teacher = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
        found = self.terms(name, student, teacher, **{**RANDOM, "kd_weight": 0.0})["loss"]
        expected = F.binary_cross_entropy_with_logits(student, self.labels(), reduction="sum")
        torch.testing.assert_close(found, expected / BATCH, atol=1e-12, rtol=1e-12)
        one = self.terms(name, student, teacher, kd_weight=1.0)
        assert torch.equal(one["loss"], one["kd"])

    @pytest.mark.parametrize("name", MULTI)
    def test_neither_order_nor_number_of_samples_matters(self, name: str) -> None:
        student, teacher = logits(BATCH, CLASSES), logits(2, BATCH, CLASSES, seed=1)
        labels, weights = self.labels(), self.labels() + 0.5
        order = np.random.default_rng(0).permutation(BATCH)
        strategy = make(name, label_noise=0.5)
        straight = strategy(Lesson(student, teacher, labels, weights, draws(), SIGMOID))
        given = student[order], teacher[:, order], labels[order], weights[order]
        shuffled = strategy(Lesson(*given, Draws(0, order, 0), SIGMOID))
        for term, value in straight.items():
            torch.testing.assert_close(shuffled[term], value, atol=1e-12, rtol=1e-12)
        strategy = make(name, **RANDOM)
        once = strategy(Lesson(student, teacher, labels, None, draws(), SIGMOID))
        doubled = student.repeat(2, 1), teacher.repeat(1, 2, 1), labels.repeat(2, 1)
        twice = strategy(Lesson(*doubled, None, draws(2 * BATCH), SIGMOID))
        for term, value in once.items():
            torch.testing.assert_close(twice[term], value)

    @pytest.mark.parametrize("name", MULTI)
    def test_weights_of_cells_and_the_focal_factor_apply_to_labels_only(self, name: str) -> None:
        student, teacher = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
        labels, strategy = self.labels(), make(name, **RANDOM)
        weights = torch.where(labels == 1, 3.0, 1.0).double()
        plain = strategy(Lesson(student, teacher, labels, None, draws(), SIGMOID))
        weighted = strategy(Lesson(student, teacher, labels, weights, draws(), SIGMOID))
        focal = strategy(Lesson(student, teacher, labels, None, draws(), Sigmoid(2.0)))
        assert not torch.isclose(weighted["ce"], plain["ce"])
        assert focal["ce"] < plain["ce"]
        if "kd" in plain:
            assert torch.equal(weighted["kd"], plain["kd"])
            assert torch.equal(focal["kd"], plain["kd"])

    @pytest.mark.parametrize("name", ["messy_collaboration", "supervised"])
    def test_corrupted_labels_are_complements(self, name: str) -> None:
        student, teacher = logits(BATCH, CLASSES), logits(1, BATCH, CLASSES, seed=1)
        found = self.terms(name, student, teacher, label_noise=1.0)["ce"]
        wrong = F.binary_cross_entropy_with_logits(student, 1 - self.labels(), reduction="sum")
        torch.testing.assert_close(found, wrong / BATCH, atol=1e-12, rtol=1e-12)
        some = {
            float(self.terms(name, student, teacher, step, label_noise=0.5)["ce"])
            for step in range(5)
        }
        assert len(some) == 5
