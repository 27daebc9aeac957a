"""The lower stages of EfficientNet-Lite0: a student that starts from strong features.

As in `squeeze`, the published weights of a network's lower part are worth more to a student than a
long schedule. EfficientNet: Tan & Le, 2019, arXiv:1905.11946; the Lite variants have neither
squeeze-and-excitation nor swish, so that they quantise well.
"""

from __future__ import annotations

from typing import Annotated, cast

import timm
from pydantic import Field
from torch import Tensor, nn

from distill.config import Fraction
from distill.config import Options as BaseOptions
from distill.models import Channels
from distill.models.origin import Origin
from distill.models.part import Part
from distill.models.weights import transfer_weights
from distill.teachers import timm as timm_family

NAME = "tf_efficientnet_lite0"
STAGES = 7


class Options(BaseOptions):
    """Which part of EfficientNet-Lite0 it is."""

    stages: Annotated[int, Field(ge=2, le=STAGES)] = 5
    """Stages kept, of seven."""
    dropout: Fraction = 0.1
    """Before the linear head."""


class Lite(Part):
    """Stem, stages, global average pooling and a linear head."""

    def __init__(self, num_classes: int, options: Options) -> None:
        super().__init__()
        network = timm.create_model(NAME, pretrained=False)
        self.conv_stem, self.bn1 = network.conv_stem, network.bn1
        self.blocks = network.blocks[: options.stages]
        gone = (f"blocks.{stage}" for stage in range(options.stages, STAGES))
        self.left_out = [*gone, "conv_head", "bn2", "classifier"]
        norms = [part for part in self.blocks.modules() if isinstance(part, nn.BatchNorm2d)]
        self.add_head(norms[-1].num_features, num_classes, options.dropout)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features before pooling `(batch, channels, h, w)`."""
        return cast(Tensor, self.blocks(self.bn1(self.conv_stem(x))))


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> nn.Module:
    """The network; `pretrained` are timm's weights of the layers that are kept."""
    network = Lite(num_classes, options)
    if pretrained:
        source = timm_family.build(NAME, num_classes, size, True, timm_family.Options())
        transfer_weights(network, source.state_dict(), network.left_out)
    return network


def origin(variant: str) -> Origin:
    """Where timm's weights are."""
    return cast(Origin, timm_family.origin(NAME))


def normalisation(variant: str) -> tuple[Channels, Channels]:
    """That of the weights."""
    return cast(tuple[Channels, Channels], timm_family.normalisation(NAME))
