"""Classifiers that answer only: fewer layers, the same function."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from distill.models.classifier import Classifier

FUSING = ("fuse", "reparameterize", "switch_to_deploy")  # methods of parts that can be fused


def deployed(classifier: Classifier) -> Classifier:
    """An evaluation-mode copy, structurally re-parameterised where the network can be.

    Either as a whole, by its own `fuse`, or by parts, which timm knows how to ask (MobileOne,
    RepVGG, FastViT); by parts only if it then answers as before.
    """
    copied = copy.deepcopy(classifier).cpu().eval()
    fuse: Any = getattr(copied.network, "fuse", None)
    if fuse is not None:
        copied.network = fuse()
    elif any(hasattr(part, way) for part in copied.network.modules() for way in FUSING):
        from timm.utils import reparameterize_model

        _replace(copied, reparameterize_model(copied.network), _answers(copied))
    return copied


def frozen(classifier: Classifier, device: torch.device) -> Classifier:
    """A copy made ready to answer: deployed, no gradients, no BatchNorm after convolutions.

    Channels-last is faster forward, on CPUs too (SqueezeNet 2.5 times; benchmarks/LOG.md), as is
    EfficientNet-Lite0 without BatchNorm (1.3 times).
    """
    copied = deployed(classifier)
    _fold_batchnorm(copied)
    return copied.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _fold_batchnorm(classifier: Classifier) -> None:
    """Puts BatchNorm into the convolutions before it, if the classifier then answers as before."""
    pairs, before = _followed_by_batchnorm(classifier)
    if pairs:
        folded = copy.deepcopy(classifier.network)
        for names in pairs:
            _fold(folded, *names)
        _replace(classifier, folded, before)


def _fold(network: nn.Module, conv_name: str, norm_name: str) -> None:
    conv: Any = network.get_submodule(conv_name)
    norm: Any = network.get_submodule(norm_name)
    network.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
    # timm has dropout and activation in its own classes of BatchNorm.
    rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
    network.set_submodule(norm_name, nn.Sequential(*rest))


def _followed_by_batchnorm(classifier: Classifier) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of convolutions and of the BatchNorm that gets what they give; the answers meanwhile.

    From one pass; those that are used twice are left out.
    """
    given: dict[int, tuple[str, Tensor]] = {}  # tensors too, so that none gets the id of another
    pairs: list[tuple[str, str]] = []

    def after(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given[id(output)] = name, output

    def before(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs and id(inputs[0]) in given:
            pairs.append((given[id(inputs[0])][0], name))

    hooks = []
    for name, module in classifier.network.named_modules():
        if isinstance(module, nn.Conv2d) and "weight" in module._parameters:  # not made of others
            hooks.append(module.register_forward_hook(partial(after, name)))
        elif isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(partial(before, name)))
    answers = _answers(classifier)
    for hook in hooks:
        hook.remove()
    times = Counter(name for pair in pairs for name in pair)
    return [pair for pair in pairs if times[pair[0]] == times[pair[1]] == 1], answers


@torch.no_grad()
def _answers(classifier: Classifier) -> Tensor:
    size = classifier.contract.input_size
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    logits: Tensor = classifier(noise).logits
    return logits


def _replace(classifier: Classifier, network: nn.Module, before: Tensor) -> None:
    """Gives a classifier another network, if it then answers as before."""
    whole, classifier.network = classifier.network, network
    if not torch.allclose(_answers(classifier), before, rtol=1e-3, atol=1e-3):
        classifier.network = whole
