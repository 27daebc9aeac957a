"""A model in training: what a run is made of, and what one optimiser step costs and teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill.config import RunConfig, TrainConfig, ViewsConfig
from distill.data.draws import Draws
from distill.data.prepare import ImageData
from distill.data.views import make_views
from distill.errors import UserError
from distill.losses import cross_entropy, mix
from distill.models import Classifier
from distill.optim import Schedule, first_trained_stage, make_optimizer, set_trainable
from distill.strategies import make_strategy
from distill.teacher import LiveTeachers

AUX_WEIGHT = 0.4  # Szegedy et al., 2015, arXiv:1512.00567: the auxiliary head's share of the loss


@dataclass(frozen=True)
class Job:
    """Everything a run is made of.

    Attributes:
        inputs: Hashes of what the run depends on beside its options (data, teachers, start).
    """

    config: RunConfig
    data: ImageData
    views: ViewsConfig
    seed: int
    folder: Path
    teachers: Sequence[Classifier] = ()
    inputs: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {
            "seed": self.seed,
            "data": {"location": self.data.location, "input_spec": self.data.spec.model_dump()},
            "views": self.views.model_dump(mode="json"),
            "run": self.config.model_dump(mode="json"),
            "inputs": {"data_sha256": self.data.sha256, **(self.inputs or {})},
        }


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """An Accelerator of this precision; an earlier one of another precision is let go."""
    if precision == "auto":
        can = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if can else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("fp16 needs a GPU", "train.precision", "use fp32, bf16 or auto")
    AcceleratorState._reset_state()
    mixed = "no" if precision == "fp32" else precision
    return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels-last on a GPU; on CPUs its backward pass corrupts memory (torch 2.11 and 2.15)."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


class Trainer:
    """A model in training: its optimiser, its averaged copy, and what one step does."""

    def __init__(self, classifier: Classifier, job: Job, device: torch.device) -> None:
        self.job, self.train = job, job.config.train
        self.strategy = make_strategy(job.config.strategy)
        self.accelerator = make_accelerator(device, self.train.precision)
        self.device = self.accelerator.device
        self.classifier = classifier.to(self.device).to(memory_format=memory_format(self.device))
        self.averaged = _averaged(classifier, self.train.ema_decay)
        self.optimizer = self.accelerator.prepare_optimizer(
            make_optimizer(classifier, self.train, job.config.transfer)
        )
        self.teachers = LiveTeachers(job.teachers, self.device) if job.teachers else None
        self.schedule = Schedule(self.train)
        self.class_weights = class_weights(self.train, job.data, self.device)
        self._first_stage: int | None = None
        self._model: torch.nn.Module = classifier

    @property
    def evaluated(self) -> Classifier:
        """The model that is validated and kept: the averaged one where there is averaging."""
        if self.averaged is None:
            return self.classifier
        return cast(Classifier, self.averaged.module)

    def begin_epoch(self, epoch: int) -> None:
        """Training mode, the right stages frozen, generators seeded for this epoch."""
        set_seed(self.job.seed + 1_000_003 * (epoch + 1), device_specific=True)
        first = first_trained_stage(self.classifier, self.job.config.transfer, epoch)
        set_trainable(self.classifier, first)
        if first != self._first_stage:
            # DDP fixes the set of trained parameters when it wraps a model.
            self._model = self.accelerator.prepare_model(self.classifier)
            self._first_stage = first

    def step(self, ids: np.ndarray[Any, Any], epoch: int, step: int) -> dict[str, Tensor]:
        """One optimiser step on these training images; returns the terms of the loss, detached."""
        images, labels, weights = self._batch(ids, epoch, step)
        draws = Draws(self.job.seed, ids, epoch)
        with self.accelerator.autocast():
            teacher_logits = self.teachers(images) if self.teachers else None
            outputs = self._model(images)
        logits = outputs.logits.float()
        terms = self.strategy(logits, teacher_logits, labels, weights, draws)
        loss = terms["loss"]
        if outputs.aux is not None:
            loss = loss + AUX_WEIGHT * cross_entropy(outputs.aux.float(), labels, weights)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.train.clip_norm > 0:
            self.accelerator.clip_grad_norm_(self.classifier.parameters(), self.train.clip_norm)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.classifier)
        return {name: term.detach() for name, term in terms.items()}

    def _batch(
        self, ids: np.ndarray[Any, Any], epoch: int, step: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Views, labels and sample weights; teacher and student both get these images."""
        split, size = self.job.data.train, self.job.data.spec.height
        draws = Draws(self.job.seed, ids, epoch)
        images = make_views(split.pixels[ids], draws, self.job.views, size, self.device)
        labels = torch.from_numpy(split.labels[ids]).to(self.device)
        weights = None if self.class_weights is None else self.class_weights[labels]
        num_classes, smoothing = len(self.job.data.classes), self.train.label_smoothing
        if smoothing > 0 or self.train.mixup > 0:
            labels = F.one_hot(labels, num_classes).float()
            labels = labels * (1.0 - smoothing) + smoothing / num_classes
        if self.train.mixup > 0 and len(ids) > 1:
            rank = self.accelerator.process_index
            random = np.random.default_rng([self.job.seed, epoch, step, rank])
            share = float(random.beta(self.train.mixup, self.train.mixup))
            images, labels = (mix(x, x.roll(1, 0), share) for x in (images, labels))
            weights = None if weights is None else mix(weights, weights.roll(1, 0), share)
        images = images.contiguous(memory_format=memory_format(self.device))
        return images, labels, weights

    def state(self, epoch: int, best: float, waited: int) -> dict[str, Any]:
        """All that a resume after `epoch` needs; tensors and plain values only."""
        scaler = self.accelerator.scaler
        return {
            "epoch": epoch,
            "best": best,
            "waited": waited,
            "network": self.classifier.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up where `state` was given out."""
        self.classifier.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for key, value in state["schedule"].items():
            setattr(self.schedule, key, value)


def _averaged(classifier: Classifier, decay: float) -> AveragedModel | None:
    if decay == 0:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(classifier, multi_avg_fn=average, use_buffers=True)


def class_weights(config: TrainConfig, data: ImageData, device: torch.device) -> Tensor | None:
    """A weight per class, or None."""
    if config.class_weights == "none":
        return None
    if config.class_weights == "balanced":
        counts = torch.tensor(data.class_counts("train"), dtype=torch.float32)
        weights = counts.sum() / (len(counts) * counts)
    else:
        weights = torch.tensor([config.class_weights[name] for name in data.classes])
    return weights.to(device)
