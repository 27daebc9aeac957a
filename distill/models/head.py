"""The last layer of a network, whose scale is that of its answers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from distill.models.layers import head_prefixes

if TYPE_CHECKING:
    from distill.models.classifier import Classifier

LOUD, QUIET = 0.5, 0.1  # standard deviation of logits, of a head that knows nothing


def settle_head(classifier: Classifier) -> None:
    """Makes the first answers of a head that knows nothing nearly even.

    Some libraries begin with logits of ± 24 and a loss of 7 for 3 classes, where ln 3 = 1.1 is
    what not knowing costs: the first epochs then unlearn the head, or spoil the features behind
    it. Logits of soft patches of colour, in either mode, that are spread by more than `LOUD` are
    scaled to `QUIET`; a library's moderate start stays as it is.
    """
    size = classifier.contract.input_size
    was_training = classifier.training
    buffers = {key: value.clone() for key, value in classifier.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patches = F.interpolate(torch.rand(8, 3, 6, 6), (size, size), mode="bicubic").clamp(0, 1)
        spread = max(float(classifier.train(mode)(patches).logits.std()) for mode in (True, False))
        if spread > LOUD:
            _scale(classifier, QUIET / spread)
    for key, value in classifier.named_buffers():
        value.copy_(buffers[key])
    classifier.train(was_training)


def at_temperature(classifier: Classifier, temperature: float) -> Classifier | None:
    """A copy that divides its logits by a temperature, by its weights: at no cost.

    None where its last layer is not a linear one, or something follows that is not.
    """
    copied, size = copy.deepcopy(classifier).cpu().eval(), classifier.contract.input_size
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = copied(noise).logits / temperature
        _scale(copied, 1.0 / temperature)
        same = torch.allclose(copied(noise).logits, expected, rtol=1e-4, atol=1e-5)
    return copied if same else None


def _scale(classifier: Classifier, factor: float) -> None:
    """Multiplies weights and biases of the layers that give a logit per class."""
    classes = len(classifier.contract.names)
    for prefix in head_prefixes(classifier.network):
        for module in classifier.network.get_submodule(prefix).modules():
            own = dict(module.named_parameters(recurse=False))
            if "weight" in own and own["weight"].ndim > 1 and len(own["weight"]) == classes:
                for parameter in own.values():
                    parameter.mul_(factor)
