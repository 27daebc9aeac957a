"""The student that ships: plain 3x3 convolutions, re-parameterised from three training branches.

Each block trains a 3x3, a 1x1 and, where shapes allow, an identity branch, each with BatchNorm,
and is one biased 3x3 convolution with ReLU when deployed (RepVGG: Ding et al., 2021,
arXiv:2101.03697). Plain convolutions are what every runtime and int8 kernel is fastest at.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from distill.config import Depth, Fraction, Width
from distill.config import Options as BaseOptions
from distill.errors import UserError
from distill.models import IMAGENET_MEAN, IMAGENET_STD, Channels
from distill.models.origin import Origin
from distill.models.weights import read_weights, transfer_weights
from distill.students.backbones import FOLDER, find_backbone

Stride = Annotated[int, Field(ge=1, le=8)]


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"{kernel} is even, a kernel has a middle pixel")
    return kernel


Kernel = Annotated[int, Field(ge=1, le=7), AfterValidator(_odd)]


class Options(BaseOptions):
    """Shape of the network."""

    width: tuple[Width, ...] = (16, 32, 64, 128)
    """Channels of each stage; the first is the stem."""
    depth: tuple[Depth, ...] = (1, 2, 2, 3)
    """Blocks of each stage."""
    stride: tuple[Stride, ...] = (2,)
    """Factor by which the first block of each stage lowers the resolution; one value is for all
    stages. Above 2, the block's convolution is as wide as its stride, whatever `kernel` says; if
    that is even, there is no padding, and a first layer then takes the pixels of the shipped file
    as they are.
    """
    kernel: tuple[Kernel, ...] = (3,)
    """Pixels across of the convolutions of each stage, odd; one value is for all stages."""
    branches: Literal["identity"] | bool = True
    """Train each block as three branches, wide, 1x1 and identity; "identity" leaves out the 1x1,
    and False trains the plain convolution that is deployed either way. Both take three fifths of
    the time (benchmarks/LOG.md).
    """
    head_width: Annotated[int, Field(ge=0, le=8192)] = 256
    """Channels of a 1x1 convolution before pooling; 0 for none."""
    dropout: Fraction = 0.1
    """Before the linear head."""


class RepBlock(nn.Module):
    """Wide + 1x1 + identity, each with BatchNorm, then ReLU; one convolution once fused.

    On the image itself there is no 1x1 branch: it would cost a third of an epoch, and its
    channels-last backward pass corrupts memory on CPUs (torch 2.11 and 2.15).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        branches: Literal["identity"] | bool,
    ) -> None:
        super().__init__()
        self.wide = _conv_bn(in_channels, channels, kernel if stride < 3 else stride, stride)
        several = bool(branches) and in_channels > 3 and stride < 3 and kernel > 1
        narrow = several and branches != "identity"
        self.narrow = _conv_bn(in_channels, channels, 1, stride) if narrow else None
        same = several and stride == 1 and in_channels == channels
        self.identity = nn.BatchNorm2d(channels) if same else None

    def forward(self, x: Tensor) -> Tensor:
        """Features `(batch, channels, height / stride, width / stride)`."""
        total = self.wide(x)
        if self.narrow is not None:
            total = total + self.narrow(x)
        if self.identity is not None:
            total = total + self.identity(x)
        return F.relu(total)

    def fuse(self) -> nn.Sequential:
        """The same function in evaluation mode as one convolution with bias."""
        weight, bias = _folded(self.wide)
        middle = weight.shape[-1] // 2
        if self.narrow is not None:
            weight_1x1, bias_1x1 = _folded(self.narrow)
            weight, bias = weight + F.pad(weight_1x1, [middle] * 4), bias + bias_1x1
        if self.identity is not None:
            scale, shift = _scale_shift(self.identity)
            kernel = torch.zeros_like(weight)
            diagonal = torch.arange(len(weight))
            kernel[diagonal, diagonal, middle, middle] = scale
            weight, bias = weight + kernel, bias + shift
        old = cast(nn.Conv2d, self.wide[0])
        kernel_size, stride, padding = old.kernel_size[0], old.stride[0], old.padding[0]
        fused = nn.Conv2d(old.in_channels, old.out_channels, kernel_size, stride, padding)
        _assign(fused, weight, bias)
        return nn.Sequential(fused, nn.ReLU(inplace=True))


class Compact(nn.Module):
    """Stages of `RepBlock`, a 1x1 convolution, global average pooling and a linear head."""

    def __init__(self, num_classes: int, options: Options) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 3
        shape = zip(
            options.width,
            options.depth,
            _per_stage(options.stride, options),
            _per_stage(options.kernel, options),
            strict=True,
        )
        for width, depth, stride, kernel in shape:
            for index in range(depth):
                first = stride if index == 0 else 1
                blocks.append(RepBlock(channels, width, kernel, first, options.branches))
                channels = width
        if options.head_width:
            blocks.append(nn.Sequential(*_conv_bn(channels, options.head_width, 1, 1), nn.ReLU()))
            channels = options.head_width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features before pooling `(batch, channels, h, w)`."""
        return cast(Tensor, self.blocks(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        pooled = self.forward_features(x).mean(dim=(2, 3))
        return cast(Tensor, self.classifier(self.dropout(pooled)))

    def fuse(self) -> Compact:
        """A deployed copy in evaluation mode: no branches, no BatchNorm, dropout off."""
        fused = copy.deepcopy(self).eval()
        fused.dropout = nn.Dropout(0.0)
        for index, block in enumerate(fused.blocks):
            if isinstance(block, RepBlock):
                fused.blocks[index] = block.fuse()
            else:
                conv = cast(nn.Conv2d, cast(nn.Sequential, block)[0])
                plain = nn.Conv2d(conv.in_channels, conv.out_channels, 1)
                _assign(plain, *_folded(cast(nn.Sequential, block)))
                fused.blocks[index] = nn.Sequential(plain, nn.ReLU(inplace=True))
        return fused.eval()

    def fold_normalisation(self, scale: Tensor, shift: Tensor) -> bool:
        """Lets a deployed network take `x` for `x * scale + shift`, if its first layer can.

        With padding it cannot: zeros around the image are not what they would be normalised.

        Args:
            scale: Per channel, as `shift`, `(1, 3, 1, 1)`.
        """
        conv = cast(nn.Conv2d, cast(nn.Sequential, self.blocks[0])[0])
        if conv.padding != (0, 0):
            return False
        assert conv.bias is not None
        bias = conv.bias.data + (conv.weight.data * shift).sum(dim=(1, 2, 3))
        _assign(conv, conv.weight.data * scale, bias)
        return True


def _per_stage(values: tuple[int, ...], options: Options) -> tuple[int, ...]:
    """A value for each stage, where one value is for all."""
    return values * len(options.width) if len(values) == 1 else values


def _conv_bn(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    padding = kernel // 2 if kernel % 2 else 0
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def _scale_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _folded(conv_bn: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its BatchNorm folded in."""
    scale, shift = _scale_shift(cast(nn.BatchNorm2d, conv_bn[1]))
    return cast(nn.Conv2d, conv_bn[0]).weight * scale[:, None, None, None], shift


def _assign(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert conv.bias is not None
    conv.weight.data.copy_(weight)
    conv.bias.data.copy_(bias)


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> nn.Module:
    """The network in its training form; `pretrained` are the shipped weights of its shape."""
    if len(options.width) != len(options.depth):
        hint = "give both a number for every stage"
        raise UserError("width and depth differ in length", "model.options", hint)
    for name in ("stride", "kernel"):
        if len(getattr(options, name)) not in (1, len(options.width)):
            hint = f"give it one, or {len(options.width)} as there are widths"
            what = f"{name} is neither one value nor one per stage"
            raise UserError(what, "model.options", hint)
    network = Compact(num_classes, options)
    if pretrained:
        transfer_weights(network, read_weights(weights_of(options)), ["classifier"])
    return network


def weights_of(options: Options) -> Path:
    """The file of this shape's weights.

    Raises:
        UserError: There is none; says for which shapes there are.
    """
    file: Path = find_backbone(options.model_dump(mode="json"))
    return file


def origin(variant: str) -> Origin:
    """The weights that come with this package; their cards lie beside them."""
    terms = "apache-2.0, learned from images under ImageNet's terms"
    return Origin("the features of students/backbones", FOLDER, "", license=terms)


def normalisation(variant: str) -> tuple[Channels, Channels]:
    """ImageNet's."""
    return IMAGENET_MEAN, IMAGENET_STD
