"""Weights that students start from: by shape, whole but for the head, small enough for a wheel."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.config import ModelConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.models.classifier import build_classifier
from distill.students import backbones
from distill.students.backbones import find_backbone, publish, shapes

SHAPE = {"width": [8, 16], "depth": [1, 1], "stride": [4, 2], "head_width": 0, "dropout": 0.0}
MIB = 2**20


def built(pretrained: bool, names=("a", "b", "c"), **options):
    model = ModelConfig(name="compact", pretrained=pretrained, options={**SHAPE, **options})
    return build_classifier(model, names, InputSpec(height=32, width=32))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 200 classes, as far as a file is made of it."""
    from safetensors.torch import save_file

    folder = tmp_path / "experiment" / "students" / "compact-tiny"
    teacher = tmp_path / "experiment" / "teachers" / "large"
    for place in (folder, teacher):
        place.mkdir(parents=True)
        row = {"epoch": 0, "seconds": 1800.0, "images_per_s": 10.0, "val/top1": 12.5}
        (place / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    torch.manual_seed(3)
    network = built(False, tuple(map(str, range(200)))).network
    save_file(network.state_dict(), folder / "best.safetensors")
    config = {
        "run": {"model": {"options": SHAPE}},
        "data": {"input_spec": {"height": 32}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "env.json").write_text(json.dumps({"cpu": "some CPU"}))
    return folder


def test_a_published_run_is_what_a_student_of_its_shape_starts_from(run, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "FOLDER", tmp_path)
    file = publish.publish(run, tmp_path)
    weights, original = load_file(file), load_file(run / "best.safetensors")
    assert {name for name in original if name not in weights} == {
        "classifier.weight",
        "classifier.bias",
    }
    student = built(True, dropout=0.3).network.state_dict()
    for name, tensor in publish.rescaled(original).items():
        if name in weights:
            is_float = original[name].is_floating_point()
            assert weights[name].dtype == (torch.float16 if is_float else original[name].dtype)
            torch.testing.assert_close(student[name], tensor, rtol=1e-3, atol=1e-4)
    card = (tmp_path / "compact-tiny.md").read_text("utf-8")
    for fact in ("0.5 hours", "18,000 views", "12.50 %", "some CPU", "32 px"):
        assert fact in card


def test_published_convolutions_are_as_large_as_random_ones_and_say_the_same():
    """They had grown up to 13 times in training, and students learned as much slower."""
    torch.manual_seed(0)
    network = built(False).network
    size = {name: float(w.detach().norm()) for name, w in network.named_parameters() if w.ndim == 4}
    grown = {
        name: tensor * 9 if name in size else tensor
        for name, tensor in network.state_dict().items()
    }
    with torch.no_grad():
        network.load_state_dict(grown)
        for _ in range(20):  # averages of what the larger ones give
            network.train()(torch.rand(16, 3, 32, 32))
        said = network.eval()(images := torch.rand(4, 3, 32, 32))
        network.load_state_dict(publish.rescaled(network.state_dict()))
        for name, weight in network.named_parameters():
            if weight.ndim == 4:
                assert float(weight.detach().norm()) == pytest.approx(size[name], rel=0.25)
        torch.testing.assert_close(network(images), said, rtol=1e-3, atol=1e-3)


def test_another_shape_is_refused_with_those_that_there_are(run, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "FOLDER", tmp_path)
    publish.publish(run, tmp_path)
    with pytest.raises(UserError, match=r"compact-tiny: width = \[8, 16\], depth = \[1, 1\]"):
        built(True, width=[8, 24])


def test_those_that_ship_have_a_card_and_fit_into_a_wheel():
    files = [file for file, _ in shapes()]
    assert sum(file.stat().st_size for file in files) <= 3 * MIB
    for file, shape in shapes():
        assert file.with_suffix(".md").is_file()
        assert find_backbone(shape) == file
        for weight in load_file(file).values():
            if weight.ndim == 4:
                assert float(weight.float().norm()) == pytest.approx((len(weight) / 3) ** 0.5, 1e-3)
        model = ModelConfig(name="compact", pretrained=True, options=shape)
        build_classifier(model, ("a", "b"), InputSpec(height=96, width=96))


def test_a_shape_without_weights_is_told_before_its_teacher_is_trained(tmp_path, distill):
    """Dry runs say it too."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        """
        [data]
        size = 32
        [[teachers]]
        name = "teacher"
        model = { name = "baseline_cnn" }
        [[students]]
        name = "student"
        model.name = "compact"
        model.pretrained = true
        model.options = { width = [8, 16], depth = [1, 1] }
        strategy.name = "vanilla"
        """
    )
    for more in ((), ("--dry-run",)):
        command = ("run", recipe, "--data", "demo:60", "--out", tmp_path / "out", *more)
        status, _, err = distill(*command)
        assert status == 2
        assert "no backbone of this shape of compact" in err
        assert "compact-290k" in err
    assert not (tmp_path / "out" / "teachers").exists()
