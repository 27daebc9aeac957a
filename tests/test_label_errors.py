"""Probable label errors: who is suspicious, and that no teacher has seen what it is asked about."""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from distill.config import ModelConfig, Recipe, RunConfig, TrainConfig
from distill.data.sources import SPLITS
from distill.pipeline import label_errors
from distill.pipeline.experiment import Experiment
from distill.pipeline.label_errors import (
    assign_folds,
    find_label_errors,
    out_of_fold_probs,
    suspicious,
)
from distill.progress import Progress
from distill.scoring.tasks import task_of
from distill.training.run_directory import open_run

TINY = {"width": [4], "depth": [1], "branches": False, "head_width": 0}


def confident(labels: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Probabilities of a teacher that is 80 to 95 % sure of these classes."""
    sure = rng.uniform(0.8, 0.95, len(labels))
    probs = np.repeat((1.0 - sure)[:, None] / (num_classes - 1), num_classes, axis=1)
    probs[np.arange(len(labels)), labels] = sure
    return probs


def test_wrong_labels_are_found_and_right_ones_left_alone() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    given = truth.copy()
    wrong = [3, 50, 120, 299]
    given[wrong] = (truth[wrong] + 1) % 3
    probs = confident(truth, 3, rng)
    # Suspicious is who is as surely of another class as the average image of that class, 87 %.
    probs[wrong[:3]] = np.where(np.arange(3) == truth[wrong[:3], None], 0.94, 0.03)
    probs[wrong[3]] = np.where(np.arange(3) == truth[wrong[3]], 0.6, 0.2)
    assert sorted(suspicious(given, probs)) == wrong[:3]


def test_the_least_credible_label_comes_first() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 100)
    probs = confident(truth, 2, rng)
    given = truth.copy()
    given[[5, 9]] = 1 - truth[[5, 9]]
    probs[5] = np.where(np.arange(2) == truth[5], 0.96, 0.04)
    probs[9] = np.where(np.arange(2) == truth[9], 0.999, 0.001)
    assert suspicious(given, probs)[:2] == [9, 5]


def test_wrong_labels_among_several_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (200, 3))
    probs = np.where(
        truth == 1, rng.uniform(0.8, 0.95, truth.shape), rng.uniform(0.05, 0.2, (200, 3))
    )
    given = truth.copy()
    given[7, 1] = 1 - truth[7, 1]
    given[90, 0] = 1 - truth[90, 0]
    assert sorted(suspicious(given, probs)) == [7, 90]


@pytest.fixture
def experiment(write_images: Callable[..., Path], tmp_path: Path) -> Experiment:
    """Two classes of 24 images; some have copies under another name."""
    names = [f"{label}/{i}.jpg" for label in ("cat", "dog") for i in range(24)]
    root = write_images(tmp_path / "images", names)
    for label in ("cat", "dog"):
        for i in range(4):
            copy = root / label / f"copy{i}.jpg"
            copy.write_bytes((root / label / f"{i}.jpg").read_bytes())
    teacher = RunConfig(
        name="small",
        model=ModelConfig(name="compact", options=TINY),
        train=TrainConfig(epochs=1, batch_size=8),
    )
    recipe = Recipe(teachers=(teacher,))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"size": 16})})
    device, quiet = torch.device("cpu"), Progress(quiet=True)
    return Experiment(recipe, str(root), tmp_path / "out", device, progress=quiet)


def test_copies_are_in_the_same_fold(experiment: Experiment) -> None:
    folds = dict(zip(experiment.data.train.names, assign_folds(experiment, 3), strict=True))
    pairs = [
        (f"{label}/{i}.jpg", f"{label}/copy{i}.jpg") for label in ("cat", "dog") for i in range(4)
    ]
    both = [(a, b) for a, b in pairs if a in folds]
    assert len(both) >= 4  # 70 % of 8 are expected in train
    assert all(folds[a] == folds[b] for a, b in both)
    assert set(folds.values()) == {0, 1, 2}


def test_a_teacher_is_asked_only_about_what_it_has_not_seen(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[set[str]] = []
    asked: list[set[str]] = []
    fit, predict_logits = label_errors.fit, label_errors.predict_logits

    def watched_fit(classifier: Any, job: Any, *rest: Any) -> None:
        trained.append({*job.data.train.names})
        fit(classifier, job, *rest)

    def watched_predict(classifier: Any, split: Any, device: Any) -> Any:
        asked.append({*split.names})
        return predict_logits(classifier, split, device)

    monkeypatch.setattr(label_errors, "fit", watched_fit)
    monkeypatch.setattr(label_errors, "predict_logits", watched_predict)
    data = experiment.data
    probs = out_of_fold_probs(experiment, 2)
    assert len(trained) == 2
    assert trained[0] | trained[1] == {*data.train.names}
    assert not trained[0] & trained[1]  # with two folds each has the other's images
    for seen, (own, val, test) in zip(trained, (asked[:3], asked[3:]), strict=True):
        assert not seen & (own | val | test)
    assert probs.shape == (56, 2)
    assert probs.sum(axis=1) == pytest.approx(np.ones(56))
    # In the order train, val, test: the rows of the first fold are what its teacher says.
    folder = experiment.out / "cache" / "folds" / "small-1-of-2"
    rows = np.flatnonzero(assign_folds(experiment, 2) == 0)
    logits = predict_logits(
        open_run(folder).load(), label_errors.subset(data.train, rows), experiment.device
    )
    assert probs[rows] == pytest.approx(task_of("single").probabilities(logits))


def test_findings_name_the_image_and_what_it_looks_like(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = experiment.data
    names = [name for split in SPLITS for name in data.splits[split].names]
    labels = np.concatenate([data.splits[split].labels for split in SPLITS])
    probs = confident(labels, 2, np.random.default_rng(0))
    odd = names.index("cat/20.jpg")
    probs[odd] = [0.03, 0.97]
    monkeypatch.setattr(label_errors, "out_of_fold_probs", lambda *arguments: probs)
    (found,) = find_label_errors(experiment, 2)
    assert found.kind == "label_error"
    assert found.paths == ("cat/20.jpg",)
    assert found.detail == "labelled cat (3 %), looks like dog (97 %)"


def test_of_several_labels_the_doubtful_ones_are_named(experiment: Experiment) -> None:
    detail = label_errors._detail(
        np.array([1, 0, 1]), np.array([0.9, 0.8, 0.05]), ("nose", "mouth", "chin")
    )
    assert detail == "chin is given (5 %), mouth is missing (80 %)"


def test_a_finished_fold_is_not_trained_again(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = out_of_fold_probs(experiment, 2)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(label_errors, "fit", refuse)
    again = replace(experiment)
    assert np.array_equal(out_of_fold_probs(again, 2), first)


def test_no_release_under_another_licence_is_admitted(repository):
    """cleanlab before 2.8 is under the AGPL, and `>=2.6` let it in."""
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    (needed,) = project["optional-dependencies"]["audit"]
    admitted = Requirement(needed).specifier
    assert "2.8.0" in admitted
    assert not any(version in admitted for version in ("2.6.6", "2.7.1"))
