"""Averages of a network's weights: over the steps of a run, and with those that it began from."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from distill.models.classifier import Classifier


class Average:
    """A network's weights and buffers averaged over the steps of a run; counts are copied.

    The first are copied, and the average then warms up: after n steps the decay is at most
    (1 + n) / (10 + n), or a short run would end near the random weights that it began with.
    `AveragedModel.update_parameters` would send its counter to the GPU and wait, and look for the
    tensors, at every step.
    """

    def __init__(self, classifier: Classifier, decay: float) -> None:
        self.decay = decay
        self._averaged = AveragedModel(classifier, use_buffers=True)
        pairs = list(zip(_tensors(self._averaged.module), _tensors(classifier), strict=True))
        moving = [pair for pair in pairs if pair[0].is_floating_point()]
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._moving, self._counts = _columns(moving), _columns(counts)

    @property
    def classifier(self) -> Classifier:
        """The network of the averaged weights."""
        return cast(Classifier, self._averaged.module)

    @torch.no_grad()
    def update(self) -> None:
        """Moves what is averaged towards the weights of a step."""
        steps = int(self._averaged.n_averaged)  # a number in the host's memory
        towards = 1.0 - warm_decay(self.decay, steps) if steps else 1.0
        torch._foreach_lerp_(*self._moving, towards)
        if self._counts[0]:
            torch._foreach_copy_(*self._counts)
        self._averaged.n_averaged += 1

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return self._averaged.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up where `state` was given out."""
        self._averaged.load_state_dict(state)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [averaged for averaged, _ in pairs], [current for _, current in pairs]


def warm_decay(decay: float, steps: int) -> float:
    """The decay after so many steps, as in TensorFlow's `ExponentialMovingAverage`."""
    return min(decay, (1 + steps) / (10 + steps))


class Anchor:
    """What a network was before all of it learned, a share of which is kept: WiSE-FT.

    What fine-tuning makes a network forget of images unlike those that it trains on, an average
    with its start remembers (Wortsman et al., 2022, arXiv:2109.01903). The start is that of full
    training: its head was trained alone before, as in LP-FT (Kumar et al., 2022, arXiv:2202.10054).

    Args:
        share: Of the start.

    Attributes:
        start: Weights and averages of its layers by name; None as long as the head trains alone.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.start: dict[str, Tensor] | None = None

    def drop(self, classifier: Classifier) -> None:
        """Remembers a network as it is now."""
        state = classifier.network.state_dict()
        self.start = {n: t.detach().clone() for n, t in state.items() if t.is_floating_point()}

    def load_state(self, start: dict[str, Tensor] | None, device: torch.device) -> None:
        """Remembers what was `start` when a run was stopped, where its network is now."""
        self.start = start and {name: tensor.to(device) for name, tensor in start.items()}

    def blended(self, classifier: Classifier) -> Classifier:
        """A copy of a network that has its share of the start; itself where there is none yet."""
        if self.start is None:
            return classifier
        copied = copy.deepcopy(classifier)
        for name, tensor in copied.network.state_dict().items():
            if name in self.start:
                tensor.lerp_(self.start[name], self.share)
        return copied
