"""Pooled features of any network, and what they are of."""

import numpy as np
import pytest
import torch
from torch import nn

from distill.config import ModelConfig
from distill.data.decode import InputSpec, to_pixels
from distill.data.demo import paint
from distill.data.sources import Item, Source, open_source
from distill.models.classifier import Classifier, build_classifier
from distill.models.features import BATCH, build_backbone, pooled_features
from distill.models.layers import head_prefixes
from distill.models.pooling import pooled

CPU = torch.device("cpu")


def backbone(name: str, size: int = 64) -> Classifier:
    torch.manual_seed(0)
    return build_backbone(ModelConfig(name=name, input_size=size))


def features_of(classifier: Classifier, source: Source, count: int) -> np.ndarray:
    return pooled_features(classifier, source, source.items[:count], CPU, 2, lambda number: None)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("torchvision/squeezenet1_1", 512),  # maps, before a convolution
        ("timm/resnet10t", 512),  # pooled already
        ("timm/convnext_atto", 320),  # maps, before a head of several layers
        ("compact", 256),
    ],
)
def test_features_of_every_kind_of_network(name: str, width: int) -> None:
    found = features_of(backbone(name), open_source("demo:30"), 3)
    assert found.shape == (3, width)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_pooling_is_over_positions_wherever_the_channels_are() -> None:
    network = nn.Identity()
    network.num_features = 5  # as timm's networks have it
    maps = torch.rand(2, 5, 3, 4)
    expected = maps.mean(dim=(2, 3))
    tokens = maps.flatten(2).transpose(1, 2)
    for features in (maps, maps.permute(0, 2, 3, 1), tokens, expected):
        assert torch.allclose(pooled(features, network), expected, atol=1e-6)


def test_features_are_what_the_head_is_given() -> None:
    """By hand: the mean over positions of what comes out of the layers before it."""
    classifier = backbone("torchvision/squeezenet1_1").eval()
    assert head_prefixes(classifier.network) == ["classifier"]
    pixels = to_pixels(paint(4)[0], InputSpec(height=64, width=64, resize="squash"))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        layers = classifier.network.get_submodule("features")
        expected = layers((images - classifier.mean) / classifier.std).mean(dim=(2, 3))[0]
    expected = (expected / expected.norm()).numpy()
    found = features_of(classifier, open_source("demo:30"), 5)[4]
    assert found == pytest.approx(expected, abs=1e-5)


def test_batches_and_threads_change_nothing() -> None:
    source, classifier = open_source(f"demo:{BATCH + 7}"), backbone("timm/resnet10t", 32)
    counts: list[int] = []
    whole = pooled_features(classifier, source, source.items, CPU, 3, counts.append)
    alone = pooled_features(classifier, source, source.items[-3:], CPU, 1, lambda number: None)
    assert counts == [BATCH, 7]
    assert whole[-3:] == pytest.approx(alone, abs=1e-5)


def test_an_unreadable_file_has_no_features() -> None:
    contents = {"a": b"no picture", "b": b""}
    items = (Item("a", 0), Item("b", 0))
    source = Source("x", ("a",), items, lambda item: contents[item.name], "x")
    assert not features_of(backbone("timm/resnet10t", 32), source, 2).any()


def test_the_hook_is_gone_afterwards() -> None:
    classifier = backbone("timm/resnet10t", 32)
    features_of(classifier, open_source("demo:30"), 2)
    assert not any(module._forward_pre_hooks for module in classifier.modules())


def test_a_trained_classifier_keeps_its_own_resize_rule() -> None:
    spec = InputSpec(height=48, width=48, resize="shortest", crop_pct=0.5)
    torch.manual_seed(0)
    classifier = build_classifier(ModelConfig(name="timm/resnet10t"), ("a", "b"), spec)
    seen: list[torch.Tensor] = []
    first = next(m for m in classifier.network.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    features_of(classifier, open_source("demo:30"), 1)
    expected = torch.from_numpy(to_pixels(paint(0)[0], spec).copy()).permute(2, 0, 1) / 255
    unnormalised = seen[-1][0] * classifier.std[0] + classifier.mean[0]
    assert torch.allclose(unnormalised, expected, atol=1e-5)
