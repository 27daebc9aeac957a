"""Images as a network sees them before its head: what copies are compared by, beside pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from distill.config import ModelConfig
from distill.data.decode import InputSpec, Pixels, UnreadableImageError, to_pixels
from distill.data.sources import Item, Source
from distill.models.classifier import Classifier, build_classifier
from distill.models.deployed import frozen
from distill.models.pooling import FeatureTap

BATCH = 64
SIZE = 128  # side of the images, in pixels, for a network that asks for no size of its own


def build_backbone(model: ModelConfig) -> Classifier:
    """A network for `pooled_features`; its head is not used, so its classes mean nothing.

    Raises:
        UserError: Unknown model, or weights that cannot be had.
    """
    size = model.input_size or SIZE
    return build_classifier(model, ("0", "1"), InputSpec(height=size, width=size, resize="squash"))


def pooled_features(
    classifier: Classifier,
    source: Source,
    items: Sequence[Item],
    device: torch.device,
    workers: int,
    advance: Callable[[int], None],
) -> NDArray[np.float32]:
    """Features of images, `(n, d)`, each row of length 1; all zero where a file is unreadable.

    Only one batch of images is held at a time.

    Args:
        workers: Decoding threads.
        advance: Told how many more images are done.
    """

    def decode(item: Item) -> Pixels | None:
        try:
            return to_pixels(source.read(item), classifier.contract.input_spec)
        except UnreadableImageError:
            return None

    model = frozen(classifier, device)
    tap = FeatureTap(model)
    rows: list[NDArray[np.float32]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(items), BATCH):
            images = list(pool.map(decode, items[start : start + BATCH]))
            rows.append(_features_of(model, tap, images, device))
            advance(len(images))
    tap.remove()
    return np.concatenate(rows)


def features_of_pixels(
    classifier: Classifier, device: torch.device
) -> Callable[[Pixels], NDArray[np.float32]]:
    """What gives features of decoded images, as `pooled_features` does, of any size."""
    model = frozen(classifier, device)
    tap = FeatureTap(model)
    return lambda pixels: _features_of(model, tap, list(pixels), device)


@torch.inference_mode()
def _features_of(
    model: Classifier, tap: FeatureTap, images: Sequence[Pixels | None], device: torch.device
) -> NDArray[np.float32]:
    spec = model.contract.input_spec
    blank: Pixels = np.zeros((spec.height, spec.width, 3), np.uint8)
    batch = np.stack([blank if image is None else image for image in images])
    pixels = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 255.0
    model(pixels)
    features = F.normalize(tap.take(), dim=1).cpu()
    features[[index for index, image in enumerate(images) if image is None]] = 0.0
    result: NDArray[np.float32] = features.numpy()
    return result
