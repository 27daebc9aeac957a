"""Networks with their input contract, their stages, their deployed form and their weights."""

import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models as torchvision_models

from distill.config import ModelConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.models.classifier import Classifier, Contract, build_classifier
from distill.models.deployed import deployed, frozen
from distill.models.layers import head_prefixes, layer_group_of, layer_groups
from distill.models.origin import can_load
from distill.models.pooling import FeatureTap
from distill.models.weights import read_weights, transfer_weights
from distill.registry import names_in
from distill.training.optim import set_trainable

NAMES = ("cat", "dog", "eel")
STUDENTS = names_in("students")


def build(name: str, size: int = 32, names: tuple[str, ...] = NAMES, **options: Any) -> Classifier:
    spec = InputSpec(height=size, width=size)
    return build_classifier(ModelConfig(name=name, **options), names, spec)


def images(count: int, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


class Recorder(nn.Module):
    """A network whose logits are the mean and the shape of what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.mean(dim=(2, 3))


def recorder(size: int) -> Classifier:
    spec = InputSpec(height=size, width=size)
    return Classifier(
        Recorder(),
        Contract(
            input_spec=spec,
            input_size=size,
            mean=(0.5, 0.0, 0.0),
            std=(0.25, 1.0, 2.0),
            names=NAMES,
        ),
    )


def test_a_classifier_normalises() -> None:
    # (0.75 - 0.5) / 0.25 = 1, 0.75 / 1, 0.75 / 2
    logits = recorder(4)(torch.full((2, 3, 4, 4), 0.75)).logits
    assert logits.tolist() == [[1.0, 0.75, 0.375]] * 2
    assert not recorder(4).state_dict()  # mean and std are no weights


def test_a_classifier_resizes_for_itself() -> None:
    classifier = recorder(4)
    x = images(2, 8)
    classifier(x)
    assert classifier.network.seen.shape == (2, 3, 4, 4)
    kwargs = {"mode": "bilinear", "antialias": True, "align_corners": False}
    expected = (F.interpolate(x, size=(4, 4), **kwargs) - classifier.mean) / classifier.std
    assert torch.equal(classifier.network.seen, expected)
    own = images(2, 4)
    classifier(own)
    assert torch.equal(classifier.network.seen, (own - classifier.mean) / classifier.std)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_learns_and_gives_logits_of_its_classes(name: str) -> None:
    """With every parameter; in evaluation mode it is a function of each image alone."""
    assert build(name, names=NAMES[:2])(images(4)).logits.shape == (4, 2)
    torch.manual_seed(0)
    classifier = build(name)
    assert classifier.contract.names == NAMES
    assert classifier.contract.input_size == 32
    assert classifier.training
    outputs = classifier(images(8))
    assert outputs.logits.shape == (8, 3)
    assert outputs.aux is None
    outputs.logits.square().sum().backward()
    idle = [n for n, p in classifier.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    x = images(4)
    with torch.no_grad():
        together, alone = classifier.eval()(x), classifier(x[2:3])
    assert together.aux is None
    torch.testing.assert_close(alone.logits, together.logits[2:3], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", STUDENTS)
def test_the_same_seed_starts_a_student_the_same(name: str) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(name).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize("name", STUDENTS)
def test_a_deployed_student_gives_the_same_probabilities(name: str) -> None:
    torch.manual_seed(0)
    classifier = build(name)
    randomise(classifier)
    state = copy.deepcopy(classifier.state_dict())
    shipped = deployed(classifier)
    with torch.no_grad():
        ours = shipped(images(4)).logits.softmax(dim=1)
        torch.testing.assert_close(
            ours, copy.deepcopy(classifier).eval()(images(4)).logits.softmax(dim=1)
        )
    assert not shipped.training
    assert classifier.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in classifier.state_dict().items())


def test_students_have_no_published_weights() -> None:
    for name in {*STUDENTS} - {"squeeze", "lite"}:
        with pytest.raises(UserError, match="pretrained"):
            build(name, pretrained=True)


def test_the_networks_of_the_write_ups_have_their_size() -> None:
    assert build("mask_cnn", 64).num_parameters == 18_430_659
    assert build("basic_cnn", 256).num_parameters == 21_345_923


def randomise(module: nn.Module) -> None:
    """Gives every BatchNorm statistics and weights that folding it cannot get right by luck."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)


@pytest.fixture
def double() -> Iterator[None]:
    """Makes float64 the type of new parameters."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
def test_fused_blocks_are_the_same_function() -> None:
    torch.manual_seed(0)
    for options in (
        {},
        {"head_width": 0},
        {"width": [8], "depth": [4]},
        {"width": [6, 6, 12], "depth": [2, 1, 2], "dropout": 0.5},
    ):
        network = build("compact", options=options).network.eval()
        randomise(network)
        fused = network.fuse()
        assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
        assert {m.p for m in fused.modules() if isinstance(m, nn.Dropout)} <= {0.0}
        x = torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            expected, found = network(x), fused(x)
        assert float(expected.std()) > 1e-3
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_the_deployed_student_is_small() -> None:
    shipped = deployed(build("compact", 128))
    # 3x3 convolutions with bias, a 1x1 convolution to 256 channels, and the head.
    widths = [(3, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 128)]
    convolutions = sum(9 * a * b + b for a, b in widths)
    assert shipped.num_parameters == convolutions + (128 * 256 + 256) + (256 * 3 + 3)
    assert shipped.num_parameters <= 600_000


def test_options_of_a_network_are_checked() -> None:
    for name, options, word in (
        ("compact", {"width": [8, 16], "depth": [1]}, "length"),
        ("compact", {"widht": [8]}, "'widht'"),
        ("compact", {"width": [0], "depth": [1]}, "width"),
        ("compact", {"dropout": 2.0}, "dropout"),
        ("torchvision/resnet18", {"dropout": 0.5}, "dropout"),  # which it lacks
        ("timm/resnet18", {"depth": 3}, "depth"),
    ):
        with pytest.raises(UserError, match=word):
            build(name, options=options)


STAGES = {
    "torchvision/resnet18": (6, ["conv1", "bn1"], ["fc"]),
    "torchvision/densenet121": (9, ["features.conv0", "features.norm0"], ["classifier"]),
    "torchvision/squeezenet1_1": (10, ["features.0"], ["classifier"]),
    "torchvision/inception_v3": (17, ["Conv2d_1a_3x3"], ["fc", "AuxLogits"]),
    "torchvision/mobilenet_v3_small": (14, ["features.0"], ["classifier"]),
    "timm/resnet18": (6, ["conv1", "bn1"], ["fc"]),
    "timm/efficientnet_b0": (10, ["conv_stem", "bn1"], ["classifier"]),
}


def untrained(name: str, num_classes: int) -> nn.Module:
    """A network of either library, of shapes without values."""
    family, variant = name.split("/")
    with torch.device("meta"):
        if family == "timm":
            return timm.create_model(variant, num_classes=num_classes)
        extra = {"init_weights": False} if variant == "inception_v3" else {}
        return torchvision_models.get_model(variant, num_classes=num_classes, **extra)


@pytest.mark.parametrize("name", STAGES)
def test_stages_go_from_the_input_to_the_head(name: str) -> None:
    """Every parameter is in one of them; only those of the head depend on the classes."""
    count, first, last = STAGES[name]
    network, other = untrained(name, 3), untrained(name, 5)
    groups = layer_groups(network)
    assert (len(groups), groups[0], groups[-1]) == (count, first, last)
    assert head_prefixes(network) == last

    owners = layer_group_of(network)
    assert list(owners) == [parameter for parameter, _ in network.named_parameters()]
    assert set(owners.values()) == set(range(len(groups)))
    for parameter, stage in owners.items():
        prefixes = [p for group in groups for p in group if parameter.startswith(f"{p}.")]
        assert len(prefixes) == 1
        assert prefixes[0] in groups[stage]
    in_head = {p for p, stage in owners.items() if stage == len(groups) - 1}
    assert in_head == {p for p in owners if p.startswith(tuple(last))}

    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    differing = [key for key, tensor in other.state_dict().items() if tensor.shape != shapes[key]]
    assert differing
    assert all(key.startswith(tuple(last)) for key in differing)


def test_parameters_of_no_module_belong_to_the_input() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2)
    owners = layer_group_of(network)
    assert owners["cls_token"] == owners["pos_embed"] == owners["patch_embed.proj.weight"] == 0
    assert [s[0] for s in layer_groups(network)] == [
        "patch_embed",
        "blocks.0",
        "blocks.1",
        "head",
    ]


def test_a_container_of_more_than_ten_is_not_confused_by_prefixes() -> None:
    network = nn.Sequential()
    network.blocks = nn.Sequential(*(nn.Linear(1, 1) for _ in range(12)))
    network.head = nn.Linear(1, 1)
    owners = layer_group_of(network)
    assert owners["blocks.1.weight"] == 1
    assert owners["blocks.11.weight"] == 11
    assert owners["head.bias"] == 12


class Wrapped(nn.Module):
    """All layers below one name, as own modules often have them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, num_classes))


def test_layers_below_one_name_are_told_apart() -> None:
    """They were one group, and so the head: weights that fitted in part were loaded in part."""
    network = Wrapped(3)
    assert layer_groups(network) == [["net.0"], ["net.2"], ["net.5"]]
    state = Wrapped(5).state_dict()
    left = transfer_weights(network, state, head_prefixes(network))
    assert left == ["net.5.weight", "net.5.bias"]
    assert torch.equal(network.net[0].weight, state["net.0.weight"])
    del state["net.2.weight"]
    with pytest.raises(UserError, match=r"'net\.2\.weight' does not fit"):
        transfer_weights(network, state, head_prefixes(network))


def test_weights_of_a_network_that_is_its_head_are_loaded_whole() -> None:
    network = nn.Sequential(nn.Linear(4, 3))
    transfer_weights(network, {"0.weight": torch.ones(3, 4), "0.bias": torch.ones(3)}, ["0"])
    assert network[0].weight.eq(1).all()
    with pytest.raises(UserError, match="another network"):
        transfer_weights(network, {"0.bias": torch.ones(3)}, ["0"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision/resnet5", r"no classifier 'resnet5'.*resnet50"),
        ("timm/resnet50.bad_tag", r"no weights 'resnet50\.bad_tag'.*a1_in1k"),
        ("timm/resnet5x", r"no model 'resnet5x'"),
    ],
)
def test_whether_weights_can_be_had_is_asked_of_what_there_is(name, said) -> None:
    """A planner that was given a teacher by a wrong name ended in a traceback."""
    problem = can_load(ModelConfig(name=name, pretrained=True))
    assert re.search(said, str(problem))


def test_squeezenet_can_say_no() -> None:
    """torchvision's ends in a ReLU: no label could have a probability below a half."""
    for variant in ("squeezenet1_0", "squeezenet1_1"):
        network = build(f"torchvision/{variant}").network
        with torch.no_grad():
            network.classifier[1].weight.zero_()
            network.classifier[1].bias.fill_(-3.0)
            logits = network.eval()(torch.rand(1, 3, 64, 64))
        assert logits.flatten().tolist() == pytest.approx([-3.0] * logits.shape[1])


def test_library_networks_give_logits_of_our_classes() -> None:
    """In training, as googlenet could not."""
    for name in ("torchvision/squeezenet1_1", "timm/resnet18", "torchvision/googlenet"):
        classifier = build(name)
        assert classifier.train()(images(2)).logits.shape == (2, 3)
        if name != "torchvision/googlenet":
            assert classifier.contract.mean == (0.485, 0.456, 0.406)


def test_the_normalisation_is_that_of_the_weights() -> None:
    vit = build("timm/vit_tiny_patch16_224", 16, options={}, input_size=224)
    assert vit.contract.mean == vit.contract.std == (0.5, 0.5, 0.5)
    assert vit.contract.input_size == 224
    assert vit.contract.input_spec.height == 16


def test_inception_gives_its_auxiliary_logits_in_training() -> None:
    classifier = build("torchvision/inception_v3", 32, input_size=299)
    outputs = classifier.train()(images(2))
    assert outputs.logits.shape == (2, 3)
    assert outputs.aux is not None
    assert outputs.aux.shape == (2, 3)
    assert classifier.contract.mean == (0.5, 0.5, 0.5)


def test_a_size_that_the_network_cannot_take() -> None:
    """Inception's auxiliary head needs about 299 px; without it, in evaluation, 75 px will do."""
    for size in (32, 128):
        with pytest.raises(UserError, match=f"{size} x {size}") as caught:
            build("torchvision/inception_v3", size)
        assert "model.input_size" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unknown_network() -> None:
    for name, word in (
        ("torchvision/resnet19", "resnet19"),
        ("torchvision/fasterrcnn_resnet50_fpn", "fasterrcnn"),
        ("torchvision/", "torchvision"),
        ("timm/resnet19", "resnet19"),
        ("keras/resnet18", "'keras'"),
        ("resnet18", "'resnet18'"),
    ):
        with pytest.raises(UserError, match=word) as caught:
            build(name)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Weights of a network of 1,000 classes, as a library would publish them."""
    torch.manual_seed(5)
    return torchvision_models.squeezenet1_1(weights=None).state_dict()


def assert_loaded(classifier: Classifier, published: dict[str, Tensor]) -> None:
    state = classifier.network.state_dict()
    assert set(state) == set(published)
    for key, tensor in state.items():
        if tensor.shape == published[key].shape:
            assert torch.equal(tensor, published[key]), key
        else:
            assert key.startswith("classifier.1.")


def test_local_weights_go_into_a_network_of_other_classes(
    tmp_path: Path, published: dict[str, Tensor]
) -> None:
    """However they are wrapped; the head stays as it started."""
    parallel = {f"module.{key}": tensor for key, tensor in published.items()}
    wrapped = {"state_dict": published, "epoch": 3}, {"model": published, "epoch": 3}
    torch.manual_seed(0)
    fresh = build("torchvision/squeezenet1_1").network.classifier[1].weight
    for number, content in enumerate((None, published, parallel, *wrapped)):
        if content is None:
            save_file(published, file := tmp_path / "w.safetensors")
        else:
            torch.save(content, file := tmp_path / f"{number}.pth")
        torch.manual_seed(0)
        classifier = build("torchvision/squeezenet1_1", pretrained=str(file))
        assert_loaded(classifier, published)
        assert torch.equal(classifier.network.classifier[1].weight, fresh)


def test_a_head_that_fits_is_loaded_too(tmp_path: Path, published: dict[str, Tensor]) -> None:
    save_file(published, tmp_path / "w.safetensors")
    names = tuple(map(str, range(1000)))
    path = str(tmp_path / "w.safetensors")
    state = build("torchvision/squeezenet1_1", names=names, pretrained=path).network.state_dict()
    assert all(torch.equal(tensor, published[key]) for key, tensor in state.items())


def test_half_precision_weights_become_float32(repository: Path) -> None:
    path = repository.parent / "shared" / "weights" / "squeezenet1_1_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"no pretrained weights: {path} is missing")
    network = build("torchvision/squeezenet1_1", pretrained=str(path)).network
    stored = load_file(path)
    weight = network.features[0].weight
    assert weight.dtype == torch.float32
    assert stored["features.0.weight"].dtype == torch.float16
    assert torch.equal(weight, stored["features.0.weight"].float())


def test_weights_are_not_asked_for_where_a_checkpoint_follows(tmp_path: Path) -> None:
    config = ModelConfig(name="compact", pretrained=str(tmp_path / "gone.safetensors"))
    build_classifier(config, NAMES, InputSpec(height=32, width=32), load=False)


def test_weights_of_another_network_are_refused(published: dict[str, Tensor]) -> None:
    network = torchvision_models.squeezenet1_1(num_classes=3)
    before, key = copy.deepcopy(network.state_dict()), "features.3.squeeze.weight"
    for state, named in (
        ({k: tensor for k, tensor in published.items() if k != key}, key),
        (published | {"features.99.weight": torch.zeros(1)}, "features.99.weight"),
        (published | {key: published[key][:, :1]}, key),
        (torchvision_models.resnet18(num_classes=3).state_dict(), "features.0.weight"),
    ):
        with pytest.raises(UserError, match="another network") as caught:
            transfer_weights(network, state, head_prefixes(network))
        assert repr(named) in str(caught.value)
        assert "model.pretrained" in str(caught.value)
    # Nothing was loaded by halves.
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    left = transfer_weights(network, published, head_prefixes(network))
    assert left == ["classifier.1.weight", "classifier.1.bias"]


def test_a_missing_file_of_weights(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(UserError, match="weights") as caught:
            build("torchvision/squeezenet1_1", pretrained=str(path))
        assert str(path) in str(caught.value)
        assert "model.pretrained" in str(caught.value)


class Intruder:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "was_here"
    for save in (torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))):
        file = tmp_path / "w.pth"
        save({"weight": torch.zeros(1), "x": Intruder(marker)}, file)
        with pytest.raises(UserError, match="weights") as caught:
            read_weights(file)
        assert str(file) in str(caught.value)
        assert not marker.exists()
    pickle.loads(pickle.dumps(Intruder(marker)))
    assert marker.exists()  # it would have


NOISE = [b"\0" * 50, b"PK\x03\x04 cut short", b"<html>404</html>\n", b"\x80\x02}."]
# An EOFError without a message, and a KeyError out of the unpickler.
CHOKES = [b"", b"hello"]


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    for file in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        for content in (*NOISE, *CHOKES):
            file.write_bytes(content)
            with pytest.raises(UserError) as caught:
                read_weights(file)
            assert str(file) in str(caught.value)


def test_a_checkpoint_of_other_things_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    for value in ([torch.zeros(1)], {"epoch": 3}, torch.zeros(2), {"state_dict": {"a": "b"}}):
        torch.save(value, file)
        with pytest.raises(UserError, match=r"w\.pth"):
            read_weights(file)


def test_a_download_cut_short_is_refused(tmp_path: Path, published: dict[str, Tensor]) -> None:
    for file, save in ((tmp_path / "w.safetensors", save_file), (tmp_path / "w.pth", torch.save)):
        save(published, file)
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(UserError, match=file.name):
            read_weights(file)


def unreachable(*args: Any, **kwargs: Any) -> nn.Module:
    raise URLError("no route to host")


def test_without_a_network_pretrained_weights_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a silent random start."""
    monkeypatch.setattr("distill.teachers.torchvision._pretrained", unreachable)
    monkeypatch.setattr("timm.create_model", unreachable)
    for name in ("torchvision/squeezenet1_1", "timm/resnet18"):
        with pytest.raises(UserError, match="pretrained") as caught:
            build(name, pretrained=True)
        message = str(caught.value)
        assert name in message
        assert "no route to host" in message
        assert "model.pretrained" in message


def test_the_librarys_weights_are_used(
    monkeypatch: pytest.MonkeyPatch, published: dict[str, Tensor]
) -> None:
    def cached(variant: str) -> nn.Module:
        network = torchvision_models.get_model(variant)
        network.load_state_dict(published)
        return network

    monkeypatch.setattr("distill.teachers.torchvision._pretrained", cached)
    assert_loaded(build("torchvision/squeezenet1_1", pretrained=True), published)


@pytest.mark.parametrize("name", ["timm/mobileone_s0", "timm/repvgg_a0"])
def test_networks_of_branches_ship_fused(name):
    """MobileOne shipped with 192 convolutions, four times the parameters."""
    torch.manual_seed(0)
    classifier = with_averages(build(name, 64), 64)
    fused, images = deployed(classifier), torch.rand(3, 3, 64, 64)
    parts = [list(model.network.modules()) for model in (classifier, fused)]
    before, after = (
        [sum(isinstance(p, kind) for p in some) for some in parts]
        for kind in (nn.Conv2d, nn.BatchNorm2d)
    )
    assert before[1] < before[0]
    assert after[1] == 0
    assert fused.num_parameters < classifier.num_parameters
    with torch.no_grad():
        torch.testing.assert_close(
            fused(images).logits, classifier(images).logits, rtol=1e-3, atol=1e-3
        )


class Block(nn.Module):
    """A convolution and BatchNorm, joined in ways that may be folded or not."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        conv = nn.Conv2d(3, 3, 3, padding=1)
        self.conv = nn.utils.parametrizations.weight_norm(conv) if way == "parametrised" else conv
        self.norm = nn.BatchNorm2d(3, track_running_stats=way != "no statistics")
        self.other = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.way == "between":
            return self.norm(y.relu_()).mean(dim=(2, 3))
        z = self.norm(y)
        if self.way == "used twice":
            z = self.norm(self.conv(z))
        elif self.way == "two of one":
            z = z + self.other(y)
        elif self.way == "used elsewhere":
            z = z * y
        return z.mean(dim=(2, 3))


def with_averages(classifier: Classifier, size: int) -> Classifier:
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(5):  # averages of BatchNorm that are some
            classifier.train()(torch.rand(8, 3, size, size))
    return classifier.eval()


def batchnorms(classifier: Classifier) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in classifier.network.modules())


@pytest.mark.parametrize(
    ("way", "left"),
    [
        ("plain", 1),  # `other`, which nothing asks
        ("between", 2),
        ("used twice", 2),
        ("two of one", 2),
        ("used elsewhere", 2),
        ("parametrised", 2),
        ("no statistics", 2),
    ],
)
def test_batchnorm_is_folded_only_where_answers_stay(way, left):
    classifier = with_averages(Classifier(Block(way), recorder(8).contract), 8)
    ready, x = frozen(classifier, torch.device("cpu")), images(5, 8)
    assert batchnorms(ready) == left
    assert batchnorms(classifier) == 2
    torch.testing.assert_close(ready(x).logits, classifier(x).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("timm/tf_efficientnet_lite0", 0),
        ("timm/resnet18", 0),
        ("torchvision/mobilenet_v3_small", 0),
        ("timm/densenet121", 62),  # 59 of 121 come after a convolution
        ("timm/convnext_atto", 0),
        ("compact", 0),
    ],
)
def test_teachers_answer_without_batchnorm(name, left):
    classifier = with_averages(build(name, 64), 64)
    training = classifier.train().state_dict()
    ready, x = frozen(classifier, torch.device("cpu")), images(5, 64)
    assert batchnorms(ready) == left
    assert not ready.training
    assert classifier.training  # it is another
    assert classifier.state_dict().keys() == training.keys()
    tap, before = FeatureTap(ready), FeatureTap(classifier.eval())
    with torch.no_grad():
        logits, expected = ready(x).logits, classifier(x).logits
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tap.take(), before.take(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    ["deit_tiny_distilled_patch16_224", "levit_128s", "efficientformer_l1", "swiftformer_xs"],
)
def test_networks_with_two_heads(name, tmp_path):
    """ImageNet weights were refused, and a frozen phase left one head random and frozen."""
    whole = timm.create_model(name, num_classes=10)
    save_file(
        {k: t.contiguous() for k, t in whole.state_dict().items()}, tmp_path / "w.safetensors"
    )
    model = ModelConfig(name=f"timm/{name}", pretrained=str(tmp_path / "w.safetensors"))
    spec = InputSpec(height=224, width=224)
    classifier = build_classifier(model, ("a", "b", "c"), spec)
    assert head_prefixes(classifier.network) == ["head", "head_dist"]
    set_trainable(classifier, len(layer_groups(classifier.network)) - 1)
    learns = {n for n, p in classifier.network.named_parameters() if p.requires_grad}
    assert {n.partition(".")[0] for n in learns} == {"head", "head_dist"}
    stored = whole.state_dict()
    for key, tensor in classifier.network.state_dict().items():
        if not key.startswith("head"):
            assert torch.equal(tensor, stored[key])


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module.", "model.backbone."])
def test_names_as_training_frameworks_write_them(tmp_path, prefix):
    network = timm.create_model("resnet10t", num_classes=10)
    state = {f"{prefix}{k}": t for k, t in network.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model = ModelConfig(name="timm/resnet10t", pretrained=str(tmp_path / "w.safetensors"))
    built = build_classifier(model, ("a", "b"), InputSpec(height=64, width=64)).network
    assert torch.equal(built.conv1[0].weight, network.conv1[0].weight)


def test_weights_of_another_network_say_how_both_begin(tmp_path):
    state = {f"tower.{k}": t for k, t in timm.create_model("resnet10t").state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model = ModelConfig(name="timm/resnet10t", pretrained=str(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match=r"begin with 'tower\.bn1.*network with 'conv1"):
        build_classifier(model, ("a", "b"), InputSpec(height=64, width=64))


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("timm/halonet26t", 50, "does not run at 50 x 50: AssertionError"),
        ("timm/vit_tiny_patch16_224", 50, "does not run at 50 x 50: "),
        ("timm/resnet18.a9_in9k", 64, "timm has no weights 'resnet18.a9_in9k'"),
    ],
)
def test_what_a_constructor_says_is_one_line(name, size, words):
    """An assertion without a word ended in an IndexError."""
    with pytest.raises(UserError, match=words):
        build_classifier(ModelConfig(name=name), ("a", "b"), InputSpec(height=size, width=size))
