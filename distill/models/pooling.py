"""Pooled features: what a network hands to its head, the mean over positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models.classifier import Classifier
from distill.models.layers import head_prefixes


class FeatureTap:
    """Keeps the pooled features of a classifier's last forward pass, with their graph.

    They are those before a layer of dropout, where one precedes the head.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._network = classifier.network
        self._kept: Tensor | None = None
        self._dropped: tuple[Tensor, Tensor] | None = None  # the last, after and before
        head = self._network.get_submodule(head_prefixes(self._network)[0])
        self._hooks = [head.register_forward_pre_hook(self._keep)]
        for module in self._network.modules():
            if isinstance(module, nn.Dropout):
                self._hooks.append(module.register_forward_hook(self._drop))

    def _drop(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._dropped = output, inputs[0]

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._kept = inputs[0]
        if self._dropped is not None and self._dropped[0] is inputs[0]:
            self._kept = self._dropped[1]
        self._dropped = None

    def take(self) -> Tensor:
        """The features `(batch, width)`, float32; they are not kept any longer."""
        assert self._kept is not None, "no forward pass since the last time"
        features, self._kept, self._dropped = pooled(self._kept, self._network), None, None
        return features

    def remove(self) -> None:
        """Lets the classifier be as it was."""
        for hook in self._hooks:
            hook.remove()


def pooled(features: Tensor, network: nn.Module) -> Tensor:
    """The mean over positions, `(batch, width)`: of maps, of channels-last maps or of tokens."""
    if features.ndim == 4:
        width = getattr(network, "num_features", features.shape[1])  # as timm calls it
        last = features.shape[1] != width and features.shape[3] == width
        features = features.mean(dim=(1, 2) if last else (2, 3))
    elif features.ndim == 3:
        features = features.mean(dim=1)
    return features.flatten(1).float()


@torch.no_grad()
def feature_width(classifier: Classifier) -> int:
    """How many pooled features there are."""
    size, was_training = classifier.contract.input_size, classifier.training
    tap = FeatureTap(classifier.eval())
    try:
        classifier(classifier.mean.new_zeros(1, 3, size, size))
        return tap.take().shape[1]
    finally:
        tap.remove()
        classifier.train(was_training)
