"""A plain CNN with LeakyReLU, after the student of the face-mask detector (arXiv:2105.01816)."""

from __future__ import annotations

from torch import nn

from distill.config import Fraction, Width
from distill.config import Options as BaseOptions
from distill.errors import UserError
from distill.models import IMAGENET_MEAN, IMAGENET_STD, Channels


class Options(BaseOptions):
    """What a recipe may set."""

    width: tuple[Width, ...] = (16, 32, 64, 128)
    """Channels of each convolution; each is followed by a 2x2 max pool."""
    hidden: Width = 128
    """Units of the layer before the head."""
    slope: Fraction = 0.01
    """Of LeakyReLU below zero."""
    dropout: Fraction = 0.2
    """Before the head."""


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> nn.Module:
    """Convolution, LeakyReLU and pool per width, then two linear layers; no BatchNorm."""
    if pretrained:
        raise UserError("baseline_cnn has no published weights", "model.pretrained", "set false")
    layers: list[nn.Module] = []
    channels = 3
    for width in options.width:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(options.slope)]
        layers.append(nn.MaxPool2d(2))
        channels = width
    side = size // 2 ** len(options.width)
    if side < 1:
        what = f"{size} px are too few for {len(options.width)} pools"
        raise UserError(what, "data.size", f"take {2 ** len(options.width)} px, or fewer widths")
    layers += [nn.Flatten(), nn.Linear(channels * side * side, options.hidden)]
    layers += [nn.LeakyReLU(options.slope), nn.Dropout(options.dropout)]
    return nn.Sequential(*layers, nn.Linear(options.hidden, num_classes))


def normalisation(variant: str) -> tuple[Channels, Channels]:
    """ImageNet's."""
    return IMAGENET_MEAN, IMAGENET_STD
