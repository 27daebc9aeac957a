"""The first fire modules of SqueezeNet 1.1: a student that starts from features, not from noise.

Where published weights of a network exist, those of its lower part are worth more to a student
than a long schedule. SqueezeNet: Iandola et al., 2016, arXiv:1602.07360.
"""

from __future__ import annotations

from typing import Annotated, cast

from pydantic import Field
from torch import Tensor, nn
from torchvision import models

from distill.config import Depth, Fraction
from distill.config import Options as BaseOptions
from distill.models import IMAGENET_MEAN, IMAGENET_STD, Channels
from distill.models.origin import Origin, torch_origin
from distill.models.part import Part
from distill.models.weights import download, transfer_weights

NAME = "torchvision/squeezenet1_1"
LAYERS = 13  # of SqueezeNet 1.1's `features`
ENDS = (4, 5, 7, 8, 10, 11, 12, 13)  # how many of them end with fire module 1, 2, ...


class Options(BaseOptions):
    """Which part of SqueezeNet it is."""

    shrink: Depth = 1
    """Factor of an average pooling of the image; 2 makes the network four times as fast."""
    fires: Annotated[int, Field(ge=1, le=8)] = 7
    """Fire modules kept, of eight: 7 are 0.53 million parameters, 6 are 0.34."""
    dropout: Fraction = 0.1
    """Before the linear head."""


class Squeeze(Part):
    """Fire modules, global average pooling and a linear head."""

    def __init__(self, num_classes: int, options: Options) -> None:
        super().__init__()
        whole = models.squeezenet1_1(weights=None)
        end = ENDS[options.fires - 1]
        self.shrink = nn.AvgPool2d(options.shrink) if options.shrink > 1 else nn.Identity()
        self.features = whole.features[:end]
        self.left_out = [*(f"features.{layer}" for layer in range(end, LAYERS)), "classifier"]
        last = self.features[-1]
        channels = last.expand1x1.out_channels + last.expand3x3.out_channels
        self.add_head(channels, num_classes, options.dropout)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features before pooling `(batch, channels, h, w)`."""
        return cast(Tensor, self.features(self.shrink(x)))


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> nn.Module:
    """The network; `pretrained` are torchvision's weights of the layers that are kept."""
    network = Squeeze(num_classes, options)
    if pretrained:
        source = download(NAME, lambda: models.squeezenet1_1(weights="DEFAULT"))
        transfer_weights(network, source.state_dict(), network.left_out)
    return network


def origin(variant: str) -> Origin:
    """torch's cache, or torchvision's server."""
    return torch_origin(NAME, models.SqueezeNet1_1_Weights.DEFAULT.url)


def normalisation(variant: str) -> tuple[Channels, Channels]:
    """ImageNet's."""
    return IMAGENET_MEAN, IMAGENET_STD
