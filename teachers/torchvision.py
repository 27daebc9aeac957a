"""Any classifier of torchvision by name, `torchvision/squeezenet1_1`."""

from __future__ import annotations

from torch import nn
from torchvision import models

from distill.config import Options as BaseOptions
from distill.errors import UserError, alike, did_you_mean
from distill.models import IMAGENET_MEAN, IMAGENET_STD, Channels
from distill.models.layers import head_prefixes
from distill.models.origin import Origin, torch_origin
from distill.models.weights import download, transfer_weights

AUX_MODELS = ("inception_v3", "googlenet")


class Options(BaseOptions):
    """What a recipe may set."""

    dropout: float | None = None
    """Dropout before the head, where the network has one; None for its default."""


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> nn.Module:
    """A torchvision network; Inception v3 and GoogLeNet keep their auxiliary heads.

    SqueezeNet goes without the ReLU behind its last convolution: logits that cannot be negative
    are probabilities of at least a half for every label, and a class without a positive one gets no
    gradient.
    """
    check_name(variant)
    arguments: dict[str, object] = {"num_classes": num_classes}
    if variant in AUX_MODELS:
        arguments |= {"aux_logits": True, "init_weights": True}
    if options.dropout is not None:
        arguments["dropout"] = options.dropout
    try:
        network: nn.Module = models.get_model(variant, weights=None, **arguments)
    except TypeError:
        what = f"{variant} has no dropout to set"
        raise UserError(what, "model.options.dropout", "leave it out") from None
    if isinstance(network, models.SqueezeNet):
        assert isinstance(network.classifier[2], nn.ReLU)
        network.classifier[2] = nn.Identity()
    if pretrained:
        source = download(f"torchvision/{variant}", lambda: _pretrained(variant))
        transfer_weights(network, source.state_dict(), head_prefixes(network))
    return network


def check_name(variant: str) -> None:
    """Raises `UserError` where torchvision has no such classifier."""
    known = models.list_models(module=models)
    if variant not in known:
        hint = did_you_mean(alike(variant, known))
        raise UserError(f"torchvision has no classifier {variant!r}", "model.name", hint)


def _pretrained(variant: str) -> nn.Module:
    network: nn.Module = models.get_model(variant, weights="DEFAULT")
    return network


def origin(variant: str) -> Origin:
    """torch's cache, or torchvision's server.

    Raises:
        UserError: There is no such classifier.
    """
    check_name(variant)
    return torch_origin(f"torchvision/{variant}", models.get_model_weights(variant).DEFAULT.url)


def normalisation(variant: str) -> tuple[Channels, Channels]:
    """ImageNet's, but for the two networks whose weights were trained on [-1, 1]."""
    half = (0.5, 0.5, 0.5)
    return (half, half) if variant in AUX_MODELS else (IMAGENET_MEAN, IMAGENET_STD)
