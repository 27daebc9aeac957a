"""Weights and priors by hand; balanced epochs by counting; adjusted logits through a real step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.config import ModelConfig, RunConfig, StrategyConfig, TrainConfig, ViewsConfig
from distill.data.prepare import ImageData
from distill.data.store import Split
from distill.data.views.images import UNLABELLED
from distill.errors import UserError
from distill.models.classifier import Classifier, build_classifier
from distill.progress import Progress
from distill.strategies.objective import make_objective
from distill.teaching.teachers import CachedTeachers, LiveTeachers
from distill.training.imbalance import (
    Sampling,
    balanced_sampling,
    check_class_weights,
    class_weights,
    draw_epoch,
    log_prior,
)
from distill.training.job import Job
from distill.training.teachers import build_caches
from distill.training.trainer import Trainer
from distill.training.world import World

CPU = torch.device("cpu")
QUIET_MODEL = ModelConfig(name="baseline_cnn", options={"width": [8, 8], "dropout": 0.0})


def data_of(labels: list, names: tuple[str, ...], task: str = "single") -> ImageData:
    """Labels alone: nothing here looks at a picture."""
    rows = np.asarray(labels, dtype=np.int64)
    split = Split("train", np.zeros((len(rows), 1, 1, 3), np.uint8), rows, ("x",) * len(rows))
    return ImageData("nowhere", names, None, {"train": split}, (), "", task)


SINGLE = data_of([0] * 6 + [1] * 3 + [2], ("a", "b", "c"))
# Ten images: "a" is on five of them, "b" on two, and four have neither.
MULTI = data_of([[1, 0]] * 4 + [[1, 1]] + [[0, 1]] + [[0, 0]] * 4, ("a", "b"), "multi")


def weights_of(data: ImageData, scheme: Any, beta: float = 0.5) -> np.ndarray:
    return class_weights(TrainConfig(class_weights=scheme, effective_beta=beta), data)


def test_balanced_and_given_weights_by_hand() -> None:
    assert class_weights(TrainConfig(), SINGLE) is None
    # 10 / (3 classes * 6, 3 and 1 images)
    assert weights_of(SINGLE, "balanced") == pytest.approx([5 / 9, 10 / 9, 10 / 3])
    # Images without the label for each that has it: 5 / 5 and 8 / 2.
    assert weights_of(MULTI, "balanced") == pytest.approx([1.0, 4.0])
    # Those that are given are taken by name.
    given = {"c": 3.0, "a": 1.0, "b": 2.0}
    assert weights_of(SINGLE, given).tolist() == [1.0, 2.0, 3.0]
    assert weights_of(MULTI, {"b": 5.0, "a": 1.0}).tolist() == [1.0, 5.0]


def test_effective_weights_by_hand() -> None:
    # β = 1/2: 6, 3 and 1 images are worth 2 (1 - 2^-6) = 63/32, 7/4 and 1, so that they weigh as
    # 32/63, 4/7 and 1. The sum over images, 6 * 32/63 + 3 * 4/7 + 1 = 121/21, is made 10.
    expected = [32 / 63 * 210 / 121, 4 / 7 * 210 / 121, 210 / 121]
    assert weights_of(SINGLE, "effective") == pytest.approx(expected)
    # 5 with and 5 without; 8 without are worth 255/128, 2 with 3/2.
    assert weights_of(MULTI, "effective") == pytest.approx([1.0, 255 / 128 / 1.5])


def test_effective_weights_lie_between_none_and_balanced() -> None:
    for data in (SINGLE, MULTI):
        assert weights_of(data, "effective", 0.0) == pytest.approx(np.ones(len(data.classes)))
        nearly = weights_of(data, "effective", 1 - 1e-9)
        assert nearly == pytest.approx(weights_of(data, "balanced"), rel=1e-4)
        spread = [np.ptp(weights_of(data, "effective", beta)) for beta in (0.0, 0.5, 0.9, 0.99)]
        assert spread == sorted(spread)
    for scheme in ("balanced", "effective"):  # the average image has weight one
        weights = weights_of(SINGLE, scheme, 0.9)
        assert weights[SINGLE.train.labels].mean() == pytest.approx(1.0)


def test_other_names_are_refused() -> None:
    for given, named in (
        ({"a": 1.0, "b": 1.0}, "'c'"),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, "'d'"),
    ):
        config = TrainConfig(class_weights=given)
        with pytest.raises(UserError, match=named) as caught:
            check_class_weights(config, SINGLE.classes, "student.train.class_weights")
        assert caught.value.where == "student.train.class_weights"
        with pytest.raises(UserError, match=named):
            class_weights(config, SINGLE)


def test_priors_are_the_shares_of_the_training_images() -> None:
    """Those without labels are not counted."""
    prior = np.exp(log_prior(SINGLE))
    assert prior == pytest.approx([0.6, 0.3, 0.1])
    assert 1 / (1 + np.exp(-log_prior(MULTI))) == pytest.approx([0.5, 0.2])
    labels = np.vstack([MULTI.train.labels, np.full((7, 2), UNLABELLED)])
    data = data_of(labels.tolist(), ("a", "b"), "multi")
    assert log_prior(data) == pytest.approx(log_prior(MULTI))
    assert weights_of(data, "balanced") == pytest.approx(weights_of(MULTI, "balanced"))


def test_a_label_that_says_nothing_is_refused() -> None:
    for data, what in (
        (data_of([0, 0, 1], ("a", "b", "c")), "no .* 'c'"),
        (data_of([[0, 1], [0, 0]], ("a", "b"), "multi"), "no .* 'a'"),
        (data_of([[1, 1], [1, 0]], ("a", "b"), "multi"), "every .* 'a'"),
    ):
        with pytest.raises(UserError, match=what):
            weights_of(data, "balanced")
        with pytest.raises(UserError, match=what):
            log_prior(data)


def all_labelled(labels: Any) -> np.ndarray:
    return np.ones(len(labels), dtype=bool)


def test_rates_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    # Four draws, two of each class: 2/3 of each image of the first, two of the only one.
    found = balanced_sampling(labels, all_labelled(labels))
    assert found.rates == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    # An unlabelled image is drawn once and takes nothing from the others.
    found = balanced_sampling(np.append(labels, UNLABELLED), np.array([1, 1, 1, 1, 0], dtype=bool))
    assert found.rates == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0, 1.0])
    assert found.groups.tolist() == [0, 0, 0, 1, -1]
    # "a" is on three images, "b" on one. An image weighs 1/3 or, with "b", its rarest label, 1;
    # the one without labels as the commonest, 1/3: 2 in all, for four draws.
    labels = np.array([[1, 0], [1, 1], [0, 0], [1, 0]])
    found = balanced_sampling(labels, all_labelled(labels))
    assert found.rates == pytest.approx([2 / 3, 2.0, 2 / 3, 2 / 3])
    assert found.groups.tolist() == [0, 1, 0, 0]
    more = np.vstack([labels, [[UNLABELLED, UNLABELLED]]])
    found = balanced_sampling(more, np.array([1, 1, 1, 1, 0], dtype=bool))
    assert found.rates == pytest.approx([2 / 3, 2.0, 2 / 3, 2 / 3, 1.0])


def random_sampling(count: int = 501) -> tuple[np.ndarray, Sampling]:
    labels = np.random.default_rng(0).choice(4, count, p=[0.7, 0.2, 0.08, 0.02])
    return labels, balanced_sampling(labels, all_labelled(labels))


def test_every_class_is_drawn_equally_often_in_every_epoch() -> None:
    labels, sampling = random_sampling()
    for epoch in range(50):
        ids, _ = draw_epoch(sampling, 0, epoch)
        assert len(ids) == 501
        # 125.25 each; the borders between groups are rounded.
        assert np.abs(np.bincount(labels[ids], minlength=4) - 125.25).max() < 1


def test_every_image_is_drawn_as_often_as_expected() -> None:
    """The floor or the ceiling of what is expected in every epoch, and exactly it on average."""
    labels, sampling = random_sampling()
    counts = np.stack(
        [np.bincount(draw_epoch(sampling, 0, e)[0], minlength=501) for e in range(2000)]
    )
    assert (counts >= np.floor(sampling.rates)).all()
    assert (counts <= np.ceil(sampling.rates)).all()
    # The share of epochs in which it is the ceiling: standard error at most 0.5 / sqrt(2000).
    assert np.abs(counts.mean(axis=0) - sampling.rates).max() < 5 * 0.5 / np.sqrt(2000)
    of_classes = counts.mean(axis=0) @ np.eye(4)[labels]
    assert np.abs(of_classes - 501 / 4).max() < 5 * 0.5 / np.sqrt(2000)


def test_an_epoch_is_a_pure_function_of_seed_and_epoch() -> None:
    _, sampling = random_sampling()
    base = ids, repeats = draw_epoch(sampling, 3, 5)
    assert all(np.array_equal(a, b) for a, b in zip(base, draw_epoch(sampling, 3, 5), strict=True))
    for seed, epoch in ((4, 5), (3, 6)):
        assert not np.array_equal(ids, draw_epoch(sampling, seed, epoch)[0])
    # Repeats count the draws of an image.
    assert repeats.max() > 5
    for image in np.unique(ids):
        assert sorted(repeats[ids == image]) == list(range((ids == image).sum()))
    # Equal classes are drawn once each.
    labels = np.arange(60) % 3
    ids, repeats = draw_epoch(balanced_sampling(labels, all_labelled(labels)), 0, 0)
    assert sorted(ids) == list(range(60))
    assert not repeats.any()


def classifier(data: ImageData, seed: int = 0) -> Classifier:
    """A network without dropout; BatchNorm is the same in both modes where it is evaluated."""
    torch.manual_seed(seed)
    return build_classifier(QUIET_MODEL, data.classes, data.spec, task=data.task)


def trainer_of(
    data: ImageData,
    folder: Path,
    student: Classifier | None = None,
    teachers: tuple[Classifier, ...] = (),
    adjustments: tuple[float, ...] = (),
    unlabelled: Split | None = None,
    strategy: StrategyConfig | None = None,
    **train: Any,
) -> Trainer:
    config = RunConfig(
        name="tiny",
        model=QUIET_MODEL,
        strategy=strategy or StrategyConfig(name="vanilla" if teachers else "supervised"),
        train=TrainConfig(**{"epochs": 6, "batch_size": 12, **train}),
    )
    job = Job(
        config,
        data,
        ViewsConfig(),
        0,
        folder,
        teachers,
        unlabelled=unlabelled,
        teacher_adjustments=adjustments,
    )
    asked = LiveTeachers(teachers, CPU, job.teacher_offsets) if teachers else None
    trainer = Trainer(student or classifier(data), job, World(CPU), asked)
    trainer.begin_epoch(0)
    return trainer


def test_batches_of_all_ranks_are_disjoint_and_together_balanced(skewed, tmp_path) -> None:
    trainer, seen = trainer_of(skewed, tmp_path, batch_size=6, sampling="balanced"), []
    for rank in (0, 1):
        trainer.world = World(CPU, rank, 2)
        batches = list(trainer.batches(0))
        seen.append([p for b in batches for p in zip(b.ids, b.repeats, strict=True)])
    assert len(seen[0]) == len(seen[1]) == 18
    both = {*seen[0], *seen[1]}
    assert len(both) == 36  # no image in the same view twice, on whichever rank
    labels = skewed.train.labels[[image for image, _ in both]]
    assert np.bincount(labels).tolist() == [12, 12, 12]


def test_an_image_that_is_drawn_again_is_shown_in_another_view(skewed, tmp_path) -> None:
    trainer = trainer_of(skewed, tmp_path, sampling="balanced")
    rare = set(np.flatnonzero(skewed.train.labels == 2).tolist())
    for epoch in (0, 4):
        seen: dict[int, list[int]] = {image: [] for image in rare}
        for batch in trainer.batches(epoch):
            assert np.array_equal(batch.view, (epoch + batch.repeats) % 6)
            for image, view, pixels in zip(batch.ids, batch.view, batch.images, strict=True):
                one = trainer.job.images.view(np.array([image]), int(view), CPU)
                torch.testing.assert_close(pixels, one[0])
                if image in rare:
                    seen[int(image)].append(int(view))
        # 12 draws of three images: four views each, those of this epoch and the next three.
        expected = sorted((epoch + repeat) % 6 for repeat in range(4))
        assert [sorted(views) for views in seen.values()] == [expected] * 3


def test_what_a_strategy_draws_for_an_image_differs_between_its_views(skewed, tmp_path) -> None:
    trainer = trainer_of(skewed, tmp_path, sampling="balanced")
    drawn: dict[tuple[int, int], float] = {}

    def strategy(lesson):
        numbers = lesson.draws.uniform("x", 1)[:, 0]
        for image, repeat, number in zip(batch.ids, batch.repeats, numbers, strict=True):
            drawn[int(image), int(repeat)] = float(number)
        return {"loss": lesson.student.sum()}

    trainer.strategy = strategy
    for epoch in (0, 1):
        drawn.clear()
        for batch in trainer.batches(epoch):
            trainer.step(batch, epoch)
        assert len(drawn) == len({*drawn.values()}) == 36


def test_batches_of_several_labels(multi_data, tmp_path) -> None:
    """Smoothing, weights of cells and unlabelled images, by hand from the labels."""
    names = tuple(f"extra{i}" for i in range(6))
    extra = replace(
        multi_data.train,
        stored=multi_data.train.pixels[:6],
        labels=np.full((6, 3), UNLABELLED),
        names=names,
        digests=names,
    )
    given = {"mask": 2.0, "wrong": 3.0, "bright": 1.0}
    trainer = trainer_of(
        multi_data, tmp_path, unlabelled=extra, class_weights=given, label_smoothing=0.2
    )
    found = 0
    for batch in trainer.batches(0):
        for image, labels, weights in zip(batch.ids, batch.labels, batch.weights, strict=True):
            if image >= len(multi_data.train.labels):
                assert not weights.any()
                found += 1
                continue
            known = multi_data.train.labels[image]
            # 0.2 shared by yes and no: 0.9 and 0.1.
            torch.testing.assert_close(labels, torch.tensor(0.1 + 0.8 * known).float())
            expected = torch.tensor(np.where(known == 1, [2.0, 3.0, 1.0], 1.0)).float()
            assert torch.equal(weights, expected)
        assert torch.isfinite(trainer.step(batch, 0)["loss"])
    assert found >= 3


def test_unlabelled_images_weigh_nothing_without_class_weights_too(multi_data, tmp_path) -> None:
    unknown = replace(multi_data.train, labels=np.full_like(multi_data.train.labels, UNLABELLED))
    trainer = trainer_of(multi_data, tmp_path, unlabelled=unknown, mixup=0.4)
    for batch in trainer.batches(0):
        assert batch.weights.shape == (12,)
        known = torch.from_numpy(batch.ids < len(multi_data.train.labels)).float()
        expected = batch.share * known + (1 - batch.share) * known.roll(1, 0)
        torch.testing.assert_close(batch.weights, expected)


def with_bias(model: Classifier, offset: np.ndarray) -> Classifier:
    """The same network, whose logits are larger by an offset."""
    layers = [m for m in model.network.modules() if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        layers[-1].bias += torch.from_numpy(offset).float()
    return model


@pytest.fixture(params=["skewed", "multi_data"])
def uneven(request: pytest.FixtureRequest) -> ImageData:
    """Data whose classes are not equally common, of either task."""
    return request.getfixturevalue(request.param)


def kd_and_gradient(trainer: Trainer) -> tuple[float, float]:
    """The teacher's term of the first batch and its largest gradient; BatchNorm as in teachers."""
    (batch, *_) = trainer.batches(0)
    trainer.classifier.eval()
    terms = trainer.step(batch, 0)
    largest = max(float(p.grad.abs().max()) for p in trainer.classifier.parameters())
    return float(terms["kd"]), largest


TEACHER_ALONE = StrategyConfig(name="vanilla", kd_weight=1.0, temperature=2.0)


def test_a_student_adjusted_to_its_teacher_has_nothing_to_learn(uneven, tmp_path) -> None:
    """The teacher says how common classes are; the student leaves that to the adjustment."""
    common = {"strategy": TEACHER_ALONE, "lr": 1e-9}
    for tau in (0.5, 1.0):
        teacher = with_bias(classifier(uneven), tau * log_prior(uneven))
        adjusted = trainer_of(uneven, tmp_path, None, (teacher,), logit_adjustment=tau, **common)
        kd, gradient = kd_and_gradient(adjusted)
        assert kd == pytest.approx(0.0, abs=1e-6)
        assert gradient < 1e-5
        plain = trainer_of(uneven, tmp_path, None, (teacher,), **common)
        kd, gradient = kd_and_gradient(plain)
        assert kd > 1e-2
        assert gradient > 1e-3


def test_an_adjusted_teacher_is_adjusted_as_it_was_trained(uneven, tmp_path) -> None:
    """Equal networks have nothing to learn from each other if both were trained adjusted.

    An unadjusted student of an adjusted teacher learns the training prior.
    """
    teacher, common = classifier(uneven), {"strategy": TEACHER_ALONE, "lr": 1e-9}
    unadjusted = with_bias(classifier(uneven), 0.7 * log_prior(uneven))
    for student, tau in ((None, 0.7), (unadjusted, 0.0)):
        trainer = trainer_of(
            uneven, tmp_path, student, (teacher,), (0.7,), logit_adjustment=tau, **common
        )
        kd, gradient = kd_and_gradient(trainer)
        assert kd == pytest.approx(0.0, abs=1e-6)
        assert gradient < 1e-5
    for adjustments, tau in (((0.7,), 0.0), ((0.0,), 0.7), ((), 0.7)):
        one = trainer_of(
            uneven, tmp_path, None, (teacher,), adjustments, logit_adjustment=tau, **common
        )
        assert kd_and_gradient(one)[0] > 1e-2


def test_each_teacher_has_its_own_adjustment(uneven, tmp_path) -> None:
    teachers = (classifier(uneven, 1), classifier(uneven, 2))
    trainer = trainer_of(uneven, tmp_path, None, teachers, (0.5, 0.0))
    (batch, *_) = trainer.batches(0)
    raw, found = LiveTeachers(teachers, CPU)(batch).logits, trainer.teachers(batch).logits
    offset = torch.from_numpy(0.5 * log_prior(uneven)).float()
    torch.testing.assert_close(found[0], raw[0] + offset)
    assert torch.equal(found[1], raw[1])


def test_the_labels_too_judge_adjusted_logits(uneven, tmp_path) -> None:
    trainer = trainer_of(uneven, tmp_path, logit_adjustment=1.0)
    (batch, *_) = trainer.batches(0)
    trainer.classifier.eval()
    with torch.no_grad():
        logits = trainer.classifier(batch.images).logits
    expected = trainer.objective.label_loss(
        logits + torch.from_numpy(log_prior(uneven)).float(), batch.labels, batch.weights
    )
    torch.testing.assert_close(trainer.step(batch, 0)["ce"], expected)


class Constant(torch.nn.Module):
    """A network that says the same of every image: how common the classes are is all it learns."""

    def __init__(self, num_classes: int, logits: np.ndarray | None = None) -> None:
        super().__init__()
        self.head = torch.nn.Linear(1, num_classes)
        with torch.no_grad():
            self.head.bias.copy_(torch.from_numpy(logits) if logits is not None else torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.new_zeros(len(images), 1))


class WithAuxiliary(Constant):
    """The same with an auxiliary head, which is heard in training."""

    def __init__(self, num_classes: int, logits: np.ndarray) -> None:
        super().__init__(num_classes, logits)
        self.aux = torch.nn.Linear(1, num_classes)
        self.aux.load_state_dict(self.head.state_dict())

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(images), self.aux(images.new_zeros(len(images), 1))


def test_an_auxiliary_head_is_adjusted_as_the_head_is(uneven, tmp_path) -> None:
    prior, contract = log_prior(uneven), classifier(uneven).contract
    student = Classifier(WithAuxiliary(len(prior), -0.5 * prior), contract)
    trainer = trainer_of(uneven, tmp_path, student, logit_adjustment=1.5, batch_size=99)
    (batch,) = trainer.batches(0)
    trainer.step(batch, 0)
    for head in (student.network.head, student.network.aux):  # both at rest
        assert head.bias.grad.abs().max() < 1e-6


def test_labels_and_teacher_agree_on_what_an_adjusted_student_should_say(uneven, tmp_path) -> None:
    """At the optimum the adjusted logits are the prior's: the plain ones are `1 - tau` times it."""
    prior, contract = log_prior(uneven), classifier(uneven).contract
    half = StrategyConfig(name="vanilla", kd_weight=0.5)
    for tau, of_teacher in ((0.0, 1.0), (1.0, 0.0), (1.5, 0.5)):
        teacher = Classifier(Constant(len(prior), (1 - of_teacher) * prior), contract)
        student = Classifier(Constant(len(prior)), contract)
        options = {"logit_adjustment": tau, "optimizer": "sgd", "lr": 0.5, "batch_size": 99}
        given = (uneven, tmp_path, student, (teacher,), (of_teacher,), None, half)
        trainer = trainer_of(*given, **options)
        (batch,) = trainer.batches(0)  # all images, so that they are as common as the prior says
        for _ in range(80):
            terms = trainer.step(batch, 0)
        assert float(terms["kd"]) < 1e-4
        found, expected = student.network.head.bias.detach().numpy(), (1 - tau) * prior
        if uneven.task == "single":
            found, expected = found - found.mean(), expected - expected.mean()
        assert found == pytest.approx(expected, abs=0.02)


def test_cached_and_adjusted_teachers_are_mixed_after_they_are_adjusted(uneven, tmp_path) -> None:
    """A mixture of posteriors of the training split, as a live teacher's answer is one."""
    trainer = trainer_of(uneven, tmp_path, None, (classifier(uneven),), (1.0,))
    job = replace(trainer.job, cache=tmp_path / "cache")
    teachers = CachedTeachers(
        build_caches(job, World(CPU), Progress(quiet=True)),
        CPU,
        make_objective(uneven.task),
        job.teacher_offsets,
    )
    (batch, *_) = trainer.batches(0)
    apart, mixed = teachers(batch).logits, teachers(batch._replace(share=0.3)).logits
    answer = torch.sigmoid if uneven.task == "multi" else lambda x: x.softmax(dim=-1)
    expected = 0.3 * answer(apart) + 0.7 * answer(apart.roll(1, 1))
    torch.testing.assert_close(answer(mixed), expected)
    torch.testing.assert_close(apart, trainer.teachers(batch).logits, rtol=2e-3, atol=2e-3)
