"""What a head that knows nothing costs at first: near ln C, whatever the library does."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from distill.config import ModelConfig
from distill.data.decode import InputSpec
from distill.models.classifier import Classifier, build_classifier

NAMES = ("a", "b", "c")
SPEC = InputSpec(height=64, width=64)
# Without settling, losses of up to 25.
FAMILIES = [
    "timm/tf_efficientnet_lite0",
    "timm/mobilenetv4_conv_small_050",
    "timm/efficientnet_b0",
    "timm/resnet10t",
    "torchvision/squeezenet1_1",
    "torchvision/mobilenet_v3_small",
    "squeeze",
    "compact",
    "baseline_cnn",
]


def build(name: str, pretrained: str | bool = False, names: tuple[str, ...] = NAMES) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ModelConfig(name=name, pretrained=pretrained), names, SPEC)


@pytest.fixture(scope="module")
def images(data) -> Tensor:
    """Painted faces, which nothing was settled on."""
    pixels = torch.tensor(data.test.pixels).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(pixels, (64, 64), mode="bilinear", antialias=True)


def first_loss(classifier: Classifier, images: Tensor, training: bool) -> float:
    labels = torch.arange(len(images)) % len(classifier.contract.names)
    with torch.no_grad():
        return float(F.cross_entropy(classifier.train(training)(images).logits, labels))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_loss_is_near_that_of_knowing_nothing(name, images):
    """An EfficientNet began at 7.1 for 3 classes; a frozen backbone was at 51 % after an epoch."""
    classifier = build(name)
    for training in (True, False):
        assert first_loss(classifier, images, training) < 1.2 * math.log(3)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("timm/tf_efficientnet_lite0", "tf_efficientnet_lite0_imagenet.safetensors"),
        ("torchvision/squeezenet1_1", "squeezenet1_1_imagenet.safetensors"),
        ("squeeze", "squeezenet1_1_imagenet.safetensors"),
    ],
)
def test_so_is_that_of_published_features(name, file, images, repository):
    weights = repository.parent / "shared" / "weights" / file
    if not weights.is_file():
        pytest.skip(f"no local weights: {weights} is missing")
    classifier = build(name, str(weights))
    for training in (True, False):
        assert first_loss(classifier, images, training) < 1.2 * math.log(3)


def test_a_head_that_knows_something_stays_as_it_is(tmp_path: Path):
    first = build("timm/mobilenetv4_conv_small_050")
    state = {key: value.clone() for key, value in first.network.state_dict().items()}
    state["classifier.weight"] = state["classifier.weight"] * 1000.0
    save_file(state, tmp_path / "whole.safetensors")
    again = build("timm/mobilenetv4_conv_small_050", str(tmp_path / "whole.safetensors"))
    assert torch.equal(again.network.classifier.weight, state["classifier.weight"])


def test_settling_leaves_statistics_and_random_numbers_alone():
    torch.manual_seed(5)
    build_classifier(ModelConfig(name="timm/tf_efficientnet_lite0"), NAMES, SPEC)
    classifier = build("timm/tf_efficientnet_lite0")
    norm = classifier.network.bn1
    assert float(norm.running_mean.abs().sum()) == 0.0
    assert int(norm.num_batches_tracked) == 0
