"""The two-convolution CNN of a mask write-up: 21,345,923 parameters with 3 classes at 256 px."""

from __future__ import annotations

from torch import nn

from distill.config import Fraction
from distill.config import Options as BaseOptions
from distill.errors import UserError
from distill.models import IMAGENET_MEAN, IMAGENET_STD, Channels


class Options(BaseOptions):
    """What a recipe may set."""

    dropout: Fraction = 0.5
    """Before the head."""


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> nn.Module:
    """5x5-64, pool 7, 3x3-128, pool 2, then 512, 64 and the classes."""
    if pretrained:
        raise UserError("basic_cnn has no published weights", "model.pretrained", "set false")
    side = size // 7 // 2
    return nn.Sequential(
        nn.Conv2d(3, 64, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(7),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128 * side * side, 512),
        nn.ReLU(inplace=True),
        nn.Linear(512, 64),
        nn.ReLU(inplace=True),
        nn.Dropout(options.dropout),
        nn.Linear(64, num_classes),
    )


def normalisation(variant: str) -> tuple[Channels, Channels]:
    """ImageNet's."""
    return IMAGENET_MEAN, IMAGENET_STD
