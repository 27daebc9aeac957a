"""The network that images are compared by: it comes with the package, nobody's data taught it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distill.config import ModelConfig
from distill.data.audit.shift import Features
from distill.data.sources import Item, Source
from distill.progress import Progress

if TYPE_CHECKING:
    from distill.models.classifier import Classifier

EMBEDDING, SIZE = "compact-290k", 96


def embedding() -> Classifier:
    """A network for `models.features`."""
    from distill.models.features import build_backbone
    from distill.students.backbones import options_of

    shape = options_of(EMBEDDING)
    return build_backbone(
        ModelConfig(name="compact", pretrained=True, input_size=SIZE, options=shape)
    )


def embedder(device: str, workers: int, progress: Progress) -> Features:
    """What gives the features of a source's images, on a device by name."""

    def features(source: Source, items: Sequence[Item]) -> NDArray[np.float32]:
        from distill.device import resolve_device
        from distill.models.features import pooled_features

        chosen = resolve_device(device)
        with progress.task(f"features by {EMBEDDING}", len(items), "images") as task:
            return pooled_features(embedding(), source, items, chosen, workers, task.advance)

    return features
