"""What students that are the lower part of a published network have in common."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class Part(nn.Module):
    """Layers of another network, global average pooling and a linear head.

    Attributes:
        left_out: Prefixes of what a file of that network's weights has and this one has not.
    """

    left_out: list[str]

    def add_head(self, channels: int, num_classes: int, dropout: float) -> None:
        """Adds what follows the pooling; last, as the head is the last of a network's layers."""
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features before pooling `(batch, channels, h, w)`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        pooled = self.forward_features(x).mean(dim=(2, 3))
        return cast(Tensor, self.classifier(self.dropout(pooled)))
