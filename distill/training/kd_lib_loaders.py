"""What KD_Lib is given to train with: models and batches in the form that it wants."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from distill.data.views.images import epoch_batches, num_batches
from distill.data.views.pixels import to_unit
from distill.models.classifier import Classifier
from distill.models.inference import EVAL_BATCH
from distill.progress import Task
from distill.training.job import Job


class Logits(nn.Module):
    """A classifier as KD_Lib wants models: images in, one tensor `(batch, num_classes)` out.

    An auxiliary head gets no loss, as KD_Lib has none for it.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images `(batch, 3, height, width)` in [0, 1]."""
        logits: Tensor = self.classifier(images).logits
        return logits


class TrainViews:
    """Training batches as KD_Lib's `train_loader`: the views that `fit` shows in the same epoch.

    Attributes:
        dataset: Something of the data's length, all that KD_Lib asks of it.
        passes: Passes begun so far. The self-teacher of `SelfTraining` takes `train.epochs` of
            them, after which the student begins with epoch 0 again.
        started: When the last pass began, by `time.perf_counter`.
    """

    def __init__(self, job: Job, device: torch.device, bar: Task) -> None:
        self.dataset = job.data.train.labels
        self.passes, self.started = 0, 0.0
        self._job, self._device, self._bar = job, device, bar

    def __len__(self) -> int:
        return num_batches(len(self.dataset), self._job.config.train.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        job, config = self._job, self._job.config.train
        epoch = self.passes % config.epochs
        self.passes, self.started = self.passes + 1, time.perf_counter()
        for ids in epoch_batches(len(self.dataset), config.batch_size, job.seed, epoch):
            labels = torch.from_numpy(self.dataset[ids]).to(self._device)
            yield job.images.view(ids, epoch % job.num_views, self._device), labels
            self._bar.advance(len(ids))


class ValImages:
    """The validation split as KD_Lib's `val_loader`.

    KD_Lib reads it once after each epoch and reports to nobody, so this is where an epoch is known
    to have ended.
    """

    def __init__(self, job: Job, device: torch.device, epoch_ended: Callable[[], None]) -> None:
        self.dataset = job.data.val.labels
        self._split, self._device, self._epoch_ended = job.data.val, device, epoch_ended

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / EVAL_BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._epoch_ended()
        for start in range(0, len(self.dataset), EVAL_BATCH):
            labels = torch.from_numpy(self.dataset[start : start + EVAL_BATCH])
            pixels = self._split.pixels[start : start + EVAL_BATCH]
            yield to_unit(pixels, self._device), labels.to(self._device)
