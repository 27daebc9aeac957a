"""Temperatures: found from validation, kept in the weights, and worth something on other images."""

import json

import numpy as np
import pytest
import torch

from distill.config import ModelConfig
from distill.data.decode import InputSpec
from distill.export.model_card import experiment_card
from distill.models.classifier import build_classifier
from distill.models.head import at_temperature
from distill.pipeline.export import export_student
from distill.pipeline.report import score_experiment
from distill.runtime.predict import Predictor
from distill.scoring.calibration import best_temperature
from distill.scoring.metrics import expected_calibration_error
from distill.scoring.tasks import MULTI, SINGLE
from distill.training.run_directory import open_run

NAMES = ("a", "b", "c", "d")


def drawn(count: int, task, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right about their own chances, and labels drawn by them."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(count, len(NAMES)))
    probs = task.probabilities(logits)
    if task is MULTI:
        return logits, (rng.random(probs.shape) < probs).astype(np.int64)
    labels = (probs.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("task", [SINGLE, MULTI])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(task, factor):
    logits, labels = drawn(4000, task)
    assert best_temperature(factor * logits, labels, task) == pytest.approx(factor, rel=0.08)


def test_the_error_of_confidences_falls_on_other_images():
    (logits, labels), (others, truth) = drawn(600, SINGLE, 1), drawn(4000, SINGLE, 2)
    temperature = best_temperature(3 * logits, labels, SINGLE)
    before = expected_calibration_error(SINGLE.probabilities(3 * others), truth)
    after = expected_calibration_error(SINGLE.probabilities(3 * others / temperature), truth)
    assert before > 8 > 2.5 > after


@pytest.mark.parametrize("task", [SINGLE, MULTI])
def test_few_images_that_are_all_right_make_nobody_certain(task):
    """Likelihood alone would end at the bound."""
    logits = 2.0 * np.eye(4)[[0, 1, 2]] - 1.0
    labels = np.array([0, 1, 2]) if task is SINGLE else np.eye(4, dtype=np.int64)[[0, 1, 2]]
    assert 0.4 < best_temperature(logits, labels, task) < 1.0


@pytest.mark.parametrize(
    "name", ["compact", "squeeze", "timm/resnet10t", "torchvision/mobilenet_v3_small"]
)
def test_a_network_divides_its_own_logits(name):
    config = ModelConfig(name=name)
    classifier = build_classifier(config, NAMES, InputSpec(height=64, width=64)).eval()
    images = torch.rand(5, 3, 64, 64)
    scaled = at_temperature(classifier, 1.7)
    assert scaled is not None
    with torch.no_grad():
        before, after = classifier(images).logits, scaled(images).logits
    torch.testing.assert_close(after, before / 1.7, rtol=1e-4, atol=1e-5)


class Odd(torch.nn.Module):
    """Ends in something that a factor does not go through."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(3, len(NAMES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.classifier(images.mean(dim=(2, 3))))


def test_a_network_that_cannot_is_left_as_it_is():
    classifier = build_classifier(
        ModelConfig(name="compact"), NAMES, InputSpec(height=32, width=32)
    )
    classifier.network = Odd()
    assert at_temperature(classifier, 2.0) is None


@pytest.mark.parametrize("task", ["single", "multi"])
def test_what_ships_is_calibrated_and_answers_as_before(task, tmp_path, make_experiment):
    experiment = make_experiment(tmp_path, task)
    export_student(experiment)
    predictor = Predictor(experiment.out / "export" / "student.fp32.onnx")
    record = json.loads((experiment.out / "export" / "export.json").read_text())["calibration"]
    assert predictor.metadata["temperature"] == record["temperature"] != 1.0
    assert predictor.metadata["metrics"]["ece"] == pytest.approx(record["ece"])
    results = score_experiment(experiment)
    trained, shipped = (
        next(row for row in results.rows if row.name == name).test
        for name in ("student", "student.fp32.onnx")
    )
    main = "map" if task == "multi" else "top1"
    assert shipped[main] == pytest.approx(trained[main])
    assert shipped["nll"] != trained["nll"]
    card = experiment_card(results, predictor.metadata)
    assert f"temperature {record['temperature']:.2f}" in card


def test_it_can_be_turned_off(tmp_path, make_experiment):
    experiment = make_experiment(tmp_path, "single", temperature_scaling=False)
    export_student(experiment)
    predictor = Predictor(experiment.out / "export" / "student.fp32.onnx")
    assert predictor.metadata["temperature"] == 1.0
    classifier = open_run(experiment.folder("student")).load()
    pixels = experiment.data.test.pixels[:4]
    with torch.no_grad():
        logits = classifier(torch.tensor(pixels).permute(0, 3, 1, 2) / 255).logits
    np.testing.assert_allclose(predictor.probs(pixels), logits.softmax(dim=1), atol=1e-5)
