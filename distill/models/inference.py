"""Asking a classifier about a whole split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.config import TaskName
from distill.data.store import Split
from distill.data.views.pixels import to_unit
from distill.models.classifier import Classifier

EVAL_BATCH = 256


def activate(logits: Tensor, task: TaskName) -> Tensor:
    """Probabilities of logits `(batch, num_classes)`: a softmax, or a sigmoid of each."""
    return logits.sigmoid() if task == "multi" else logits.softmax(dim=1)


def predict_logits(
    classifier: Classifier, split: Split, device: torch.device
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits `(n, num_classes)` of every image of a validation or test split, in their order."""
    was_training = classifier.training
    classifier.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(split.labels), EVAL_BATCH):
            ids = np.arange(start, min(start + EVAL_BATCH, len(split.labels)))
            images = to_unit(split.take(ids), device)
            # Channels-last is faster forward, on CPUs too, whatever the weights' layout.
            images = images.contiguous(memory_format=torch.channels_last)
            parts.append(classifier(images).logits.float())
    classifier.train(was_training)
    return torch.cat(parts).cpu().numpy()  # the only wait for a GPU
