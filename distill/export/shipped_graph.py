"""What is inside a shipped file: pixels to probabilities, a class activation map and features."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.export.onnx_graph import EMBEDDING
from distill.models.classifier import Classifier
from distill.models.deployed import deployed
from distill.models.inference import activate


class ShippedGraph(nn.Module):
    """Pixels as they are decoded to what a user wants: normalisation and softmax included.

    Where labels are many, a sigmoid of each logit takes the place of the softmax.

    Args:
        classifier: Any classifier; a fused copy of it is used.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = deployed(classifier)
        # (x / 255 - mean) / std in one multiplication and one addition.
        self.register_buffer("scale", 1.0 / (255.0 * self.classifier.std))
        self.register_buffer("shift", -self.classifier.mean / self.classifier.std)
        # A first layer without padding can do both in its weights.
        fold = getattr(self.classifier.network, "fold_normalisation", None)
        self.is_folded = bool(fold and fold(self.scale, self.shift))
        self.has_cam = has_cam(self.classifier)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """`prob` `(batch, classes)` and, where the network has them, what it is made of.

        That is `cam`, `(batch, classes, h, w)`, and `embedding`, pooled features `(batch, d)`: what
        the last layer makes logits of.

        Args:
            image: uint8 `(batch, height, width, 3)`, RGB.
        """
        images = image.permute(0, 3, 1, 2).to(torch.float32)
        size = self.classifier.contract.input_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        normalised = images if self.is_folded else images * self.scale + self.shift
        if not self.has_cam:
            return (self._probs(self.classifier.network(normalised)),)
        extract, head = cast(tuple[Callable[[Tensor], Tensor], nn.Linear], _parts(self.classifier))
        features = extract(normalised)
        pooled = features.mean(dim=(2, 3))
        maps = F.conv2d(features, head.weight[:, :, None, None])
        return self._probs(head(pooled)), maps, pooled

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives, in order."""
        return ("prob", "cam", EMBEDDING) if self.has_cam else ("prob",)

    def _probs(self, logits: Tensor) -> Tensor:
        return activate(logits, self.classifier.contract.task)


def has_cam(classifier: Classifier) -> bool:
    """Whether `mean(cam) + bias == logits` holds, tried on noise."""
    parts = _parts(classifier)
    if parts is None:
        return False
    extract, head = parts
    size = classifier.contract.input_size
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = extract(noise)
        if features.ndim != 4 or features.shape[1] != head.in_features:
            return False
        expected = classifier.network(noise)
        return bool(torch.allclose(head(features.mean(dim=(2, 3))), expected, atol=1e-4))


def _parts(classifier: Classifier) -> tuple[Callable[[Tensor], Tensor], nn.Linear] | None:
    """Feature extractor and linear head of networks that name them as timm does."""
    network = classifier.network
    extract = getattr(network, "forward_features", None)
    get_head = getattr(network, "get_classifier", None)
    head = get_head() if get_head else getattr(network, "classifier", None)
    return (extract, head) if extract and isinstance(head, nn.Linear) else None
