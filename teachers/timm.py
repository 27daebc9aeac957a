"""Any classifier of timm by name, `timm/resnet50` or `timm/resnet50.a1_in1k`."""

from __future__ import annotations

from pathlib import Path

import timm
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn

from distill.config import Fraction
from distill.config import Options as BaseOptions
from distill.errors import UserError, alike, did_you_mean
from distill.models import IMAGENET_MEAN, IMAGENET_STD, Channels
from distill.models.layers import head_prefixes
from distill.models.origin import Origin
from distill.models.packages import advice, packaged_file, packaged_weights
from distill.models.weights import download, quick_offline, transfer_weights


class Options(BaseOptions):
    """What a recipe may set."""

    drop_rate: Fraction = 0.0
    """Dropout before the head."""
    drop_path_rate: Fraction | None = None
    """Stochastic depth, where the network has it."""


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> nn.Module:
    """A timm network; its head is reset to `num_classes`.

    Weights come from timm's cache or hub, else from an installed package that has them.
    """
    check_name(variant)
    arguments = options.model_dump(exclude_none=True) | {"num_classes": num_classes}

    def create() -> nn.Module:
        network: nn.Module = timm.create_model(variant, pretrained=pretrained, **arguments)
        return network

    try:
        if not pretrained:
            return create()
        with quick_offline():
            return download(f"timm/{variant}", create, advice(variant))
    except TypeError as error:
        hint = "name options of that network's own, see timm's documentation"
        raise UserError(f"{variant} refuses its options: {error}", "model.options", hint) from None
    except UserError:
        tensors = packaged_weights(variant)
        if tensors is None:
            raise
    network: nn.Module = timm.create_model(variant, pretrained=False, **arguments)
    state = dict(zip(network.state_dict(), tensors, strict=True))
    transfer_weights(network, state, head_prefixes(network))
    return network


def check_name(variant: str) -> None:
    """Raises `UserError` where timm has no such model, or no weights of that tag."""
    name = variant.partition(".")[0]
    if not timm.is_model(name):
        known = timm.list_models()
        near = [*(model for model in known if model.startswith(name)), *alike(name, known)]
        hint = did_you_mean(list(dict.fromkeys(near))[:5]) or "see timm.list_models()"
        raise UserError(f"timm has no model {variant!r}", "model.name", hint)
    try:
        timm.get_pretrained_cfg(variant)
    except RuntimeError:
        tags = ", ".join(timm.list_pretrained(f"{name}.*")) or "none"
        what, hint = f"timm has no weights {variant!r}", f"there are: {tags}"
        raise UserError(what, "model.name", hint) from None


def origin(variant: str) -> Origin:
    """timm's repository of these weights on the Hub, its cache, or an installed package.

    Raises:
        UserError: There is no such model, or it has no such weights.
    """
    check_name(variant)
    config, file, url = timm.get_pretrained_cfg(variant), packaged_file(variant), ""
    if config and config.hf_hub_id:
        for name in ("pytorch_model.bin", "model.safetensors"):
            cached = try_to_load_from_cache(config.hf_hub_id, name)
            file = Path(cached) if isinstance(cached, str) else file
        if not constants.HF_HUB_OFFLINE:
            url = f"{constants.ENDPOINT}/{config.hf_hub_id}/resolve/main/config.json"
    license, repository = (config.license, config.hf_hub_id) if config else (None, None)
    return Origin(f"timm/{variant}", file, url, advice(variant), license or "", repository or "")


def normalisation(variant: str) -> tuple[Channels, Channels]:
    """What timm records for the weights of this name."""
    config = timm.get_pretrained_cfg(variant)
    if config is None:
        return IMAGENET_MEAN, IMAGENET_STD
    red, green, blue = zip(config.mean, config.std, strict=True)
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])
