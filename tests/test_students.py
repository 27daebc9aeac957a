"""What the students' own files promise beyond the contract of every model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from distill.config import ModelConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.models.classifier import Classifier, build_classifier
from distill.models.deployed import deployed

NAMES = ("cat", "dog", "eel")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(name: str, pretrained: bool | str = False, **options) -> Classifier:
    config = ModelConfig(name=name, pretrained=pretrained, options=options)
    return build_classifier(config, NAMES, InputSpec(height=64, width=64))


@pytest.fixture
def weights(tmp_path) -> Path:
    """A file of SqueezeNet's weights, with its head of 1,000 classes."""
    torch.manual_seed(0)
    save_file(squeezenet1_1(weights=None).state_dict(), tmp_path / "whole.safetensors")
    return tmp_path / "whole.safetensors"


@pytest.mark.parametrize("fires", range(1, 9))
def test_squeeze_starts_as_the_lower_part_of_squeezenet(weights, fires):
    torch.manual_seed(0)
    whole = squeezenet1_1(weights=None).eval()
    student = build("squeeze", str(weights), fires=fires).eval().network
    layers = whole.features[: len(student.features)]
    with torch.no_grad():
        assert torch.equal(student.forward_features(IMAGES), layers(IMAGES))
    following = whole.features[len(student.features) :]
    kinds = [type(layer).__name__ for layer in (*layers, *following)]
    assert kinds[: len(layers)].count("Fire") == fires
    assert kinds[len(layers) - 1] == "Fire"


@pytest.mark.parametrize(("fires", "expected"), [(7, 525_312), (6, 336_320)])
def test_squeeze_is_as_small_as_it_says(fires, expected):
    """All of SqueezeNet 1.1 but its last convolution are 722,496 parameters; less its last fires:

    Fire 8 (512 in, 64, 256 + 256 out): 64 * 513 + 256 * 65 + 256 * 577 = 197,184; fire 7 (384 in,
    64, 256 + 256 out): 64 * 385 + 256 * 65 + 256 * 577 = 188,992.
    """
    found = sum(p.numel() for p in build("squeeze", fires=fires).network.features.parameters())
    assert found == expected


def test_squeeze_starts_from_torchvisions_own_weights_or_says_what_to_do(
    cached_squeezenet, monkeypatch, tmp_path
):
    """From a filled cache of torch.hub; with an empty one and no network it is an error."""
    whole = cached_squeezenet
    student = build("squeeze", True).network
    assert torch.equal(student.features[0].weight, whole.features[0].weight)
    assert torch.equal(student.features[-1].squeeze.bias, whole.features[11].squeeze.bias)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(UserError, match=r"model\.pretrained"):
        build("squeeze", True)


def refuse(*arguments, **options):
    raise OSError("no network")


def test_squeeze_refuses_weights_of_another_network(tmp_path):
    torch.manual_seed(0)
    state = squeezenet1_1(weights=None).state_dict()
    state["layer1.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="another network"):
        build("squeeze", str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    "options",
    [
        {"branches": False},
        {"branches": "identity"},
        {"stride": [1, 2], "width": [8, 16], "depth": [2, 2]},
        {"stride": [4, 2], "width": [8, 16], "depth": [1, 2], "branches": False},
        {"stride": [4, 2], "width": [8, 16], "depth": [1, 2]},
    ],
)
def test_every_shape_of_compact_deploys_to_the_same_function(options):
    torch.manual_seed(0)
    student = build("compact", **options)
    student.train()
    with torch.no_grad():
        for _ in range(3):  # gives BatchNorm statistics to fold
            student(torch.rand(8, 3, 64, 64))
        expected = student.eval()(IMAGES).logits
        shipped = deployed(student)
        torch.testing.assert_close(shipped(IMAGES).logits, expected, rtol=1e-4, atol=1e-5)
    assert not [m for m in shipped.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("branches", "kinds"), [(True, 2), ("identity", 1), (False, 0)], ids=["all", "identity", "none"]
)
def test_blocks_of_compact_train_the_branches_they_are_to(branches, kinds):
    blocks = build("compact", branches=branches, width=[8, 8], depth=[1, 2]).network.blocks
    assert (blocks[2].narrow is not None) + (blocks[2].identity is not None) == kinds
    assert blocks[1].identity is None, "a block that halves the resolution has nothing to add"


def test_strides_of_compact_lower_the_resolution():
    student = build("compact", width=[8, 16, 16], depth=[1, 1, 1], stride=[4, 2, 1], head_width=0)
    assert student.network.forward_features(IMAGES).shape == (2, 16, 8, 8)


@pytest.mark.parametrize("kernel", [[1], [5], [3, 5, 1]])
def test_kernels_of_any_size_fuse_to_the_same_function(kernel):
    shape = {"width": [8, 16, 16], "depth": [1, 2, 2], "kernel": kernel, "dropout": 0.0}
    student = build("compact", **shape).train()
    with torch.no_grad():
        for _ in range(3):  # gives BatchNorm statistics to fold
            student(torch.rand(8, 3, 64, 64))
        expected = student.eval()(IMAGES).logits
        found = deployed(student)
        torch.testing.assert_close(found(IMAGES).logits, expected, rtol=1e-4, atol=1e-5)
    sizes = [m.kernel_size[0] for m in found.network.modules() if isinstance(m, torch.nn.Conv2d)]
    per_stage = kernel * 3 if len(kernel) == 1 else kernel
    assert sizes == [*per_stage[:1], *per_stage[1:2] * 2, *per_stage[2:] * 2, 1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"stride": [2, 2]}, "stride"),
        ({"kernel": [3, 3]}, "kernel"),
        ({"kernel": [4]}, "middle pixel"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(options, match):
    with pytest.raises(UserError, match=match):
        build("compact", width=[8, 16, 16], depth=[1, 1, 1], **options)


@pytest.mark.parametrize(("stages", "params"), [(4, 254_227), (5, 701_107), (7, 2_959_811)])
def test_lite_starts_as_the_lower_stages_of_lite0(tmp_path, stages, params):
    """Of timm's own sizes: stem 928, stages 253,056, 699,840 and 2,957,920, a linear head of 3."""
    import timm

    torch.manual_seed(0)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    student = build("lite", str(tmp_path / "whole.safetensors"), stages=stages)
    lower = torch.nn.Sequential(whole.conv_stem, whole.bn1, whole.blocks[:stages])
    with torch.no_grad():
        assert torch.equal(student.network.eval().forward_features(IMAGES), lower(IMAGES))
    assert student.num_parameters == params


def test_lite_takes_the_weights_of_a_package():
    from distill.models.packages import packaged_weights

    tensors = packaged_weights("tf_efficientnet_lite0")
    assert tensors is not None
    student = build("lite", True)
    assert torch.equal(student.network.conv_stem.weight, tensors[0])
    assert student.contract.mean == (0.5, 0.5, 0.5)
