"""The three-block CNN of a mask write-up: 18,430,659 parameters with 3 classes at 64 px."""

from __future__ import annotations

from torch import nn

from distill.config import Fraction
from distill.config import Options as BaseOptions
from distill.errors import UserError
from distill.models import IMAGENET_MEAN, IMAGENET_STD, Channels


class Options(BaseOptions):
    """What a recipe may set."""

    dropout: tuple[Fraction, Fraction, Fraction] = (0.25, 0.25, 0.5)
    """After each of the three blocks."""


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> nn.Module:
    """Two 3x3 convolutions with ReLU per block, pool, dropout; then 1024, 512 and the classes."""
    if pretrained:
        raise UserError("mask_cnn has no published weights", "model.pretrained", "set false")
    layers: list[nn.Module] = []
    channels = 3
    for widths, dropout in zip(((32, 64), (128, 128), (256, 256)), options.dropout, strict=True):
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
    side = size // 8
    layers += [nn.Flatten(), nn.Linear(channels * side * side, 1024), nn.ReLU(inplace=True)]
    layers += [nn.Linear(1024, 512), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(512, num_classes))


def normalisation(variant: str) -> tuple[Channels, Channels]:
    """ImageNet's."""
    return IMAGENET_MEAN, IMAGENET_STD
