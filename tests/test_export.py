"""The exported file against torch, and what happens where they differ."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from distill.config import ModelConfig
from distill.data.decode import InputSpec
from distill.errors import RunStopped, UserError
from distill.export import onnx_fp32
from distill.export.onnx_file import describe, write_labels
from distill.export.onnx_fp32 import compare, export_onnx, torch_probs
from distill.export.parity import FLOAT32
from distill.export.shipped_graph import ShippedGraph
from distill.models.classifier import Classifier, build_classifier
from distill.runtime.predict import Predictor

NAMES = ("a", "b", "c")
METADATA = {"names": list(NAMES), "task": "single", "thresholds": {}}


def build(name: str, size: int = 32, **options) -> Classifier:
    torch.manual_seed(0)
    config = ModelConfig(name=name, **options)
    classifier = build_classifier(config, NAMES, InputSpec(height=size, width=size))
    classifier.train()
    with torch.no_grad():  # BatchNorm statistics that folding could get wrong
        for _ in range(3):
            classifier(torch.rand(8, 3, size, size))
    return classifier.eval()


def random_pixels(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def metadata(classifier: Classifier) -> dict:
    return METADATA | {"input_spec": classifier.contract.input_spec.model_dump()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Classifier, Path, dict]:
    """A compact network, its file, and what the file says of itself."""
    classifier, file = build("compact"), tmp_path_factory.mktemp("one") / "m.onnx"
    given = metadata(classifier) | {"license": "", "mean": classifier.contract.mean}
    export_onnx(classifier, file, given, random_pixels(20))
    return classifier, file, given


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> tuple[Classifier, Path, np.ndarray]:
    """The same where labels are many, and the images it was held against."""
    classifier, file = multi_label("compact"), tmp_path_factory.mktemp("many") / "m.onnx"
    pixels = random_pixels(10)
    export_onnx(classifier, file, metadata(classifier) | {"task": "multi"}, pixels)
    return classifier, file, pixels


@pytest.mark.parametrize("name", ["baseline_cnn", "timm/resnet10t", "torchvision/squeezenet1_1"])
def test_every_kind_of_network_agrees_with_torch(name, tmp_path):
    classifier, file = build(name), tmp_path / "m.onnx"
    found = export_onnx(classifier, file, metadata(classifier), random_pixels(20))
    assert found["path"] == "dynamo"
    assert [output.name for output in onnx.load(file).graph.output] == found["outputs"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]  # no external data beside it


@pytest.mark.parametrize(("stride", "kinds"), [(4, ["Conv"]), (2, ["Mul", "Add", "Conv"])])
def test_normalisation_is_in_the_weights_of_a_first_layer_without_padding(stride, kinds, tmp_path):
    options = {"width": [8, 16], "depth": [1, 1], "stride": [stride, 2]}
    classifier, file = build("compact", options=options), tmp_path / "m.onnx"
    export_onnx(classifier, file, metadata(classifier), random_pixels(20))
    found = [node.op_type for node in onnx.load(file).graph.node]
    assert found[: 2 + len(kinds)] == ["Transpose", "Cast", *kinds]


@pytest.mark.parametrize("path", ["dynamo-unoptimized", "legacy"])
def test_the_other_paths_give_the_same_file_format(path, tmp_path):
    pytest.importorskip("onnxscript")
    classifier, file = build("compact"), tmp_path / "m.onnx"
    export_onnx(classifier, file, metadata(classifier), random_pixels(9), path)
    model = onnx.load(file)
    assert model.ir_version <= 10
    assert model.opset_import[0].version == 18
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_batch_is_dynamic(exported):
    predictor = Predictor(exported[1])
    pixels = random_pixels(64)
    whole = predictor.probs(pixels)
    for size in (1, 2, 5, 64):
        np.testing.assert_allclose(predictor.probs(pixels[:size]), whole[:size], atol=1e-6)


def test_probabilities_are_those_of_the_training_model(tmp_path):
    """The fused, normalised graph against the unfused classifier in torch."""
    classifier, pixels = build("compact"), random_pixels(16)
    images = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = classifier(images).logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(torch_probs(ShippedGraph(classifier), pixels), expected, atol=1e-5)


def test_a_file_that_disagrees_is_not_kept_and_the_next_path_is_tried(tmp_path, monkeypatch):
    classifier, file = build("baseline_cnn"), tmp_path / "m.onnx"
    convert = onnx_fp32._convert

    def wrong_at_first(graph, shape, path):
        model = convert(graph, shape, path)
        if path == "dynamo":  # an optimiser that mistakes a weight
            bias = next(t for t in model.graph.initializer if len(t.dims) == 1)
            values = onnx.numpy_helper.to_array(bias) + 3.0
            bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(onnx_fp32, "_convert", wrong_at_first)
    found = export_onnx(classifier, file, metadata(classifier), random_pixels(12))
    assert found["path"] == "dynamo-unoptimized"
    assert found["tried"][0]["max_prob_difference"] > 1e-3
    with pytest.raises(RunStopped, match="agrees with torch"):
        export_onnx(classifier, file, metadata(classifier), random_pixels(12), "dynamo")
    assert not file.exists()


def test_parity_looks_at_every_image(exported):
    classifier, file, _ = exported
    pixels = random_pixels(30)
    expected = torch_probs(ShippedGraph(classifier), pixels)
    expected[-1] = np.roll(expected[-1], 1)
    parity = compare(file, expected, pixels)
    # 29 of 30 images agree: 96.67 %.
    assert parity.agreement == pytest.approx(100 * 29 / 30)
    assert not FLOAT32.allow(vars(parity))


def multi_label(name: str) -> Classifier:
    torch.manual_seed(0)
    spec = InputSpec(height=32, width=32)
    return build_classifier(ModelConfig(name=name), NAMES, spec, task="multi").eval()


@pytest.mark.parametrize("path", onnx_fp32.PATHS)
@pytest.mark.parametrize("name", ["compact", "torchvision/squeezenet1_1"])
def test_with_many_labels_each_has_a_probability_of_its_own(name, path, tmp_path):
    classifier, file, pixels = multi_label(name), tmp_path / "m.onnx", random_pixels(9)
    given = metadata(classifier) | {"task": "multi", "thresholds": {"a": 0.4}}
    export_onnx(classifier, file, given, pixels, path)
    images = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = classifier(images).logits.sigmoid().numpy()
    predictor = Predictor(file)
    np.testing.assert_allclose(predictor.probs(pixels), expected, atol=1e-5)
    assert not np.allclose(expected.sum(axis=1), 1.0, atol=0.05)
    assert predictor.thresholds == pytest.approx([0.4, 0.5, 0.5])


def test_with_many_labels_parity_is_of_their_sets(several):
    classifier, file, pixels = several
    expected = torch_probs(ShippedGraph(classifier), pixels)
    label = int(expected[0].argmin())
    expected[0, label] -= 0.1  # the first image's least likely label: its top class stays
    thresholds = [0.0, 0.0, 0.0]
    thresholds[label] = float(expected[0, label]) + 0.05
    # 9 of 10 images have the same labels.
    assert compare(file, expected, pixels, "multi", thresholds).agreement == pytest.approx(90.0)
    assert compare(file, expected, pixels, "single").agreement == 100.0


def test_rounding_across_a_threshold_is_no_disagreement(several):
    """A file once was refused for differences of 3e-7, as a threshold lay in between."""
    _, file, pixels = several
    found = Predictor(file).probs(pixels)
    thresholds = [float(found[0, 0]), 0.0, 0.0]
    assert compare(file, found - 3e-7, pixels, "multi", thresholds).agreement == 100.0
    # More than rounding: the first image, and whatever else lies between.
    assert compare(file, found - 3e-4, pixels, "multi", thresholds).agreement <= 90.0


def test_metadata_is_json(exported):
    _, file, given = exported
    found = {e.key: json.loads(e.value) for e in onnx.load(file).metadata_props}
    assert found == json.loads(json.dumps(given))


class NoCam(nn.Module):
    """Names its parts as timm does, but its logits are not the head of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classifier = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.forward_features(x).amax(dim=(2, 3)))


def test_a_network_that_ends_otherwise_has_no_cam():
    assert ShippedGraph(build("compact")).has_cam
    assert not ShippedGraph(Classifier(NoCam(), build("compact").contract)).has_cam
    assert not ShippedGraph(build("torchvision/squeezenet1_1")).has_cam


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_file_that_was_cut_short_is_one_clear_error(keep, exported, tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(exported[1].read_bytes()[:keep])
    with pytest.raises(UserError, match=r"m\.onnx"):
        Predictor(file)


def test_somebody_elses_onnx_file_is_refused(exported, tmp_path):
    file, model = tmp_path / "m.onnx", onnx.load(exported[1])
    describe(model, {"names": ["a"]})
    onnx.save(model, file)
    with pytest.raises(UserError, match="no metadata 'task'"):
        Predictor(file)


def test_a_class_name_does_not_end_its_line_early(tmp_path):
    """Names with line breaks moved all classes behind them to other numbers."""
    names = ("with\nbreak", "two\r\nmore\u2028here", "plain", " spaced ")
    write_labels(names, tmp_path / "labels.txt")
    lines = (tmp_path / "labels.txt").read_text("utf-8").splitlines()
    assert lines == ["with break", "two more here", "plain", " spaced "]
