"""A network with its input contract: the only form in which models travel through the engine."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from distill.config import MAX_SIZE, ModelConfig, TaskName
from distill.data.decode import InputSpec
from distill.errors import DistillError, UserError, first_line, printable, unprintable
from distill.files import blame_system
from distill.models.head import settle_head
from distill.models.layers import head_prefixes
from distill.models.weights import read_weights, transfer_weights
from distill.registry import check_options, find_module

Channels = tuple[float, float, float]
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


def _shown(names: tuple[str, ...]) -> tuple[str, ...]:
    if odd := [name for name in names if unprintable(name)]:
        raise ValueError(f"the class {printable(odd[0])!r} does not show")
    if len(set(names)) < len(names):
        raise ValueError("two classes have the same name")
    return names


class Contract(BaseModel):
    """What a model takes and gives; stored as `contract.json`.

    Attributes:
        input_spec: Size and resize rule of the images it is given.
        input_size: Size its network works at; images of another size are resized inside.
    """

    model_config = ConfigDict(frozen=True)

    input_spec: InputSpec
    input_size: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    names: Annotated[tuple[str, ...], AfterValidator(_shown)]
    task: TaskName = "single"


class Outputs(NamedTuple):
    """Logits `(batch, num_classes)`, and those of an auxiliary head in training (Inception v3)."""

    logits: Tensor
    aux: Tensor | None = None


class Family(Protocol):
    """What a file in `students/` or `teachers/` offers, beside a model `Options`.

    One whose `pretrained` has to be fetched also says where from: `origin(variant)`, an
    `models.origin.Origin`; one that has weights for some shapes only, `weights_of(options)`.
    """

    def build(
        self, variant: str, num_classes: int, size: int, pretrained: bool, options: BaseModel
    ) -> nn.Module:
        """A network; `pretrained` asks for the library's own weights, head reset."""

    def normalisation(self, variant: str) -> tuple[Channels, Channels]:
        """Mean and standard deviation of its input."""


class Classifier(nn.Module):
    """Images in [0, 1] to logits: resizes if it must, normalises, runs the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        self.register_buffer("mean", torch.tensor(contract.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        """Outputs of images `(batch, 3, height, width)` in [0, 1]."""
        size = self.contract.input_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(
                images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
            )
        result = self.network((images - self.mean) / self.std)
        return Outputs(*result[:2]) if isinstance(result, tuple) else Outputs(result)

    @property
    def num_parameters(self) -> int:
        """Parameters as trained."""
        return sum(p.numel() for p in self.network.parameters())


def split_name(name: str) -> tuple[str, str, str]:
    """A model's name as (folder, module, variant)."""
    family, slash, variant = name.partition("/")
    return ("teachers", family, variant) if slash else ("students", name, "")


def model_options(config: ModelConfig) -> BaseModel:
    """The model's own options, checked."""
    folder, module, _ = split_name(config.name)
    declared = find_module(folder, module, "model.name", "build").Options
    return cast(BaseModel, check_options(declared, config.options, f"model {config.name!r}"))


def build_classifier(
    config: ModelConfig,
    names: tuple[str, ...],
    spec: InputSpec,
    load: bool = True,
    task: TaskName = "single",
) -> Classifier:
    """Builds a network with its contract.

    Args:
        config: Name, weights and options.
        names: Class names.
        spec: How the images it will be given are made.
        load: Load pretrained weights; False where a checkpoint follows anyway.
        task: One label per image, or any number of them.

    Raises:
        UserError: Unknown model, weights that cannot be had or do not fit, or an input size that
            the network cannot work at.
    """
    folder, module_name, variant = split_name(config.name)
    module = find_module(folder, module_name, "model.name", "build")
    family, options = cast(Family, module), model_options(config)
    size = config.input_size or spec.height
    library = load and config.pretrained is True
    try:
        network = family.build(variant, len(names), size, library, options)
    except DistillError:
        raise
    except Exception as error:  # constructors of libraries raise nearly every built-in type
        blame_system(error)
        what = f"{config.name} cannot be built: {first_line(error)}"
        raise UserError(what, "model.name", "correct its name, its tag or its options") from None
    has_fresh_head = load
    if load and isinstance(config.pretrained, str):
        # A network that is part of another says what of a file it has no place for.
        spared = [*head_prefixes(network), *getattr(network, "left_out", [])]
        has_fresh_head = bool(transfer_weights(network, read_weights(config.pretrained), spared))
    mean, std = family.normalisation(variant)
    contract = Contract(
        input_spec=spec,
        input_size=size,
        mean=mean,
        std=std,
        names=names,
        task=task,
    )
    classifier = Classifier(network, contract)
    _try_out(classifier, config.name)
    if has_fresh_head:
        settle_head(classifier)
    return classifier


def _try_out(classifier: Classifier, name: str) -> None:
    """A forward pass in each mode, so that a size the network cannot take is an error now.

    Auxiliary heads run in training only and want larger images; BatchNorm's statistics, which a
    training pass moves, are put back.
    """
    size, classes = classifier.contract.input_size, len(classifier.contract.names)
    was_training = classifier.training
    buffers = {key: value.clone() for key, value in classifier.named_buffers()}
    try:
        with torch.no_grad():
            images = torch.zeros(2, 3, size, size)
            shape = classifier.train()(images).logits.shape
            classifier.eval()(images)
    except Exception as error:  # as constructors do
        blame_system(error)
        what = f"{name} does not run at {size} x {size}: {first_line(error)}"
        raise UserError(what, "model.input_size", "try the size it was made for") from None
    for key, value in classifier.named_buffers():
        value.copy_(buffers[key])
    classifier.train(was_training)
    if shape != (2, classes):
        what = f"{name} gives {tuple(shape)} for two images, expected (2, {classes})"
        raise UserError(what, "model.name", "name a classifier that takes the number of classes")
