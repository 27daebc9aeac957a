"""A model in training: its optimiser, its teachers, and what one step costs and teaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from distill.data.views.draws import Draws
from distill.data.views.images import Batch, Ids, epoch_batches, is_read_by_file, read_ahead
from distill.device import keep_memory, to_device
from distill.errors import UserError
from distill.models.classifier import Classifier
from distill.models.pooling import FeatureTap
from distill.strategies import Lesson, make_strategy
from distill.strategies.losses import mix, mix_labels
from distill.strategies.objective import make_objective
from distill.teaching.teachers import Taught, Teachers, on_device
from distill.training.accumulation import WHOLE, Part, accumulate_anew
from distill.training.averaging import Anchor, Average
from distill.training.imbalance import balanced_sampling, class_weights, draw_epoch
from distill.training.job import Job
from distill.training.optim import Schedule, first_trained_group, make_optimizer, set_trainable
from distill.training.precision import autocast, memory_format, resolve_precision
from distill.training.projection import Projection
from distill.training.world import World, without_sync

Picked = tuple[Ids, Ids | None]  # image numbers, and how often each was drawn before
AUX_WEIGHT = 0.4  # Szegedy et al., 2015, arXiv:1512.00567: the auxiliary head's share of the loss


class Trainer:
    """A model in training: its optimiser, its averaged copy, and what one step does.

    Args:
        world: Who trains it, and on which device.
        teachers: Who teaches; None where nobody does.

    Attributes:
        precision: What the student's forward pass is computed in; weights and losses are fp32, and
            teachers answer in fp32, live as cached.
        accumulate: Batches per optimiser step: those of the options, unless the run was begun by
            another number of processes.
    """

    def __init__(
        self, classifier: Classifier, job: Job, world: World, teachers: Teachers | None
    ) -> None:
        self.job, self.train = job, job.config.train
        self.strategy = make_strategy(job.config.strategy)
        self.objective = make_objective(job.data.task, self.train.focal_gamma)
        self.world, self.teachers = world, teachers
        self.accumulate = self.train.accumulate
        self._wrapped: dict[str, nn.Module] = {}  # what averages gradients over the processes
        self.device = world.device
        self.precision = resolve_precision(self.train.precision, self.device)
        # Small gradients are lost in fp16 unless the loss is scaled up.
        self.scaler = GradScaler(self.device.type) if self.precision == "fp16" else None
        keep_memory()
        self.memory_format = memory_format(classifier, self.device)
        self.classifier = classifier.to(self.device).to(memory_format=self.memory_format)
        decay = self.train.ema_decay
        self.averaged = Average(classifier, decay) if decay else None
        share = job.config.transfer.start_share
        self.anchor = Anchor(share) if share else None
        self.optimizer = make_optimizer(classifier, self.train, job.config.transfer)
        self._parameters = list(classifier.parameters())
        self.projection: Projection | None = None
        if self.strategy.needs_features and job.teachers:
            self.projection = Projection(classifier, job.teachers, job.seed).to(self.device)
            self._project = world.wrap(self.projection)
            self._wrapped["projection"] = self._project
            self._tap = FeatureTap(classifier)
            self.optimizer.add_param_group(
                {"params": list(self.projection.parameters()), "lr_scale": 1.0}
            )
        self.schedule = Schedule(self.train)
        self.class_weights = on_device(class_weights(self.train, job.data), self.device)
        self.offset = on_device(job.offset, self.device)
        labels, is_labelled = job.images.labels, job.images.is_labelled
        is_balanced = self.train.sampling == "balanced"
        if is_balanced and is_read_by_file(job.images.shards):
            what = "balanced sampling wants images of all files at once, which are read by file"
            hint = "use data.store=disk, or train.class_weights=balanced"
            raise UserError(what, "train.sampling", hint)
        self.sampling = balanced_sampling(labels, is_labelled) if is_balanced else None
        self._all_labelled = bool(is_labelled.all())
        self._first_group: int | None = None
        self._model: nn.Module = classifier

    @property
    def evaluated(self) -> Classifier:
        """The model that is validated and kept, averaged as the options say."""
        return self._trained if self.anchor is None else self.anchor.blended(self._trained)

    @property
    def _trained(self) -> Classifier:
        """The network, or its average over the steps where there is one."""
        return self.classifier if self.averaged is None else self.averaged.classifier

    @property
    def _compile_mode(self) -> str | None:
        """On a GPU all kernels of a pass by one launch: small students wait for the host.

        Not where gradients of several passes are added up, which lie in the same memory then; nor
        where features are tapped on the way, which was not tried.
        """
        alone = self.device.type == "cuda" and self.world.size == self.accumulate == 1
        return "reduce-overhead" if alone and self.projection is None else None

    def begin_epoch(self, epoch: int) -> None:
        """Training mode, the right layers frozen, generators seeded for this epoch."""
        torch.manual_seed(self.job.seed + 1_000_003 * (epoch + 1) + self.world.rank)
        transfer = self.job.config.transfer
        if self.anchor and self.anchor.start is None and epoch >= transfer.freeze_epochs:
            self.anchor.drop(self._trained)
        first = first_trained_group(self.classifier, transfer, epoch)
        set_trainable(self.classifier, first)
        if first != self._first_group:
            # DDP fixes the set of trained parameters when it wraps a model.
            self._model = self._wrapped["classifier"] = self.world.wrap(self.classifier)
            if self.train.compile:
                self._model = cast(nn.Module, torch.compile(self._model, mode=self._compile_mode))
            self._first_group = first

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, on this rank."""
        world, rank = self.world.size, self.world.rank
        count, size, seed = len(self.job.images), self.train.batch_size, self.job.seed
        places = epoch_batches(count, size, seed, epoch, rank, world, self.job.images.shards)
        if self.sampling is None:
            order: Iterable[Picked] = ((place, None) for place in places)
        else:
            ids, repeats = draw_epoch(self.sampling, seed, epoch)
            order = ((ids[place], repeats[place]) for place in places)
        for step, (picked, pixels) in enumerate(self._read(order)):
            # By the batch's place in the epoch, however many processes share it.
            yield self._batch(picked, pixels, epoch, [seed, epoch, step * world + rank, 0])

    def step(self, batch: Batch, epoch: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """Gradients of a batch, and the optimiser's step where that is the last of its batches.

        Processes tell each other their gradients then, and not before.

        Returns:
            The terms of the batch's loss, detached: those of the strategy, and `aux`, what an
            auxiliary head adds to `loss`.
        """
        if part.is_first:
            self.optimizer.zero_grad(set_to_none=True)
        with nullcontext() if part.is_last else without_sync(*self._wrapped.values()):
            terms = self._terms(batch, epoch)
            loss = terms["loss"] / part.of
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            scaled.backward()  # type: ignore[no-untyped-call]
        if part.is_last:
            self._descend()
            if self.averaged is not None:
                self.averaged.update()
        return {name: term.detach() for name, term in terms.items()}

    def _terms(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """The terms of a batch's loss, with their graph."""
        draws = Draws(self.job.seed, batch.ids, self._moment(epoch, batch.repeats))
        taught = self.teachers(batch) if self.teachers else None
        with autocast(self.device, self.precision):
            outputs = self._model(batch.images)
        labels, weights = batch.labels, batch.weights
        logits = self._adjusted(outputs.logits)
        said = None if taught is None else taught.logits
        lesson = Lesson(logits, said, labels, weights, draws, self.objective, self._paired(taught))
        terms = self.strategy(lesson)
        if outputs.aux is not None:
            aux = self.objective.label_loss(self._adjusted(outputs.aux), labels, weights)
            terms = {**terms, "loss": terms["loss"] + AUX_WEIGHT * aux, "aux": AUX_WEIGHT * aux}
        return terms

    def _moment(self, epoch: int, repeats: Ids | None) -> int | Ids:
        """What makes the draws of a step differ from those of the same images at another."""
        return epoch if repeats is None else epoch + self.train.epochs * repeats

    def _paired(self, taught: Taught | None) -> list[tuple[Tensor, Tensor]]:
        """The student's features of the last forward pass, projected, beside each teacher's."""
        if self.projection is None or taught is None:
            return []
        return list(zip(self._project(self._tap.take()), taught.features, strict=True))

    def _descend(self) -> None:
        """The optimiser's step along the gradients, clipped."""
        scaler, optimizer = self.scaler, self.optimizer
        if self.train.clip_norm > 0:
            if scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self.train.clip_norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    def _adjusted(self, logits: Tensor) -> Tensor:
        """The student's logits as the labels and teachers of the training split judge them."""
        logits = logits.float()
        return logits if self.offset is None else logits + self.offset

    def _read(self, order: Iterable[Picked]) -> Iterator[tuple[Picked, Tensor]]:
        """Stored images, batch by batch; for a GPU the next batch is read and pinned meanwhile."""
        images = self.job.images
        if self.device.type != "cuda":
            yield from ((picked, torch.from_numpy(images.pixels(picked[0]))) for picked in order)
            return
        # A thread begins on the first GPU, whichever this process is to use.
        number = self.device.index
        gpu = torch.cuda.current_device() if number is None else number
        with ThreadPoolExecutor(1, "pin", torch.cuda.set_device, (gpu,)) as pool:
            yield from read_ahead(
                lambda picked: torch.from_numpy(images.pixels(picked[0])).pin_memory(), order, pool
            )

    def _batch(self, picked: Picked, pixels: Tensor, epoch: int, mixup_seed: list[int]) -> Batch:
        """Views, labels and label weights; teacher and student both get these images."""
        ids, repeats = picked
        view = (epoch + (0 if repeats is None else repeats)) % self.job.num_views
        stored, motion = self.job.images, None
        if self.train.shift > 0:
            motion = stored.motion(ids, self._moment(epoch, repeats), self.train.shift)
        images = stored.augment(pixels, ids, view, self.device, motion)
        labels, weights = self._labels(ids)
        share = None
        if self.train.mixup > 0 and len(ids) > 1:
            random = np.random.default_rng(mixup_seed)
            share = float(random.beta(self.train.mixup, self.train.mixup))
            images = mix(images, images.roll(1, 0), share)
            labels, weights = mix_labels(labels, weights, share)
        images = images.contiguous(memory_format=self.memory_format)
        return Batch(ids, view, images, labels, weights, share, repeats)

    def _labels(self, ids: Ids) -> tuple[Tensor, Tensor | None]:
        """Smoothed labels as the strategy takes them, and their weights."""
        stored, num_classes = self.job.images, len(self.job.data.classes)
        known = to_device(stored.labels[ids], self.device).clamp(min=0)
        weights = None
        if self.class_weights is not None:
            weights = self.objective.label_weights(known, self.class_weights)
        if not self._all_labelled:
            labelled = to_device(stored.is_labelled[ids], self.device).float()
            cells = labelled if weights is None or weights.ndim == 1 else labelled[:, None]
            weights = labelled if weights is None else weights * cells
        smoothing, soft = self.train.label_smoothing, self.train.mixup > 0
        return self.objective.targets(known, num_classes, smoothing, soft), weights

    def state(self) -> dict[str, Any]:
        """All of it that a resume needs; tensors and plain values only."""
        return {
            "network": self.classifier.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state(),
            "anchor": None if self.anchor is None else self.anchor.start,
            "optimizer": self.optimizer.state_dict(),
            "projection": None if self.projection is None else self.projection.state_dict(),
            "schedule": self.schedule.state(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "processes": self.world.size,
            "accumulate": self.accumulate,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up where `state` was given out, by as many processes or by others.

        Raises:
            UserError: These cannot share the batches of its optimiser steps, or another version of
                the package began it.
        """
        if "processes" in state:  # which earlier versions did not keep
            before = state["processes"], state["accumulate"]
            self.accumulate = accumulate_anew(*before, self.world.size)
        self.classifier.network.load_state_dict(state["network"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:  # earlier versions had a group of parameters per layer
            raise UserError(
                f"an earlier version began it: {error}",
                str(self.job.folder),
                "train it again with --overwrite",
            ) from None
        if self.projection is not None:
            self.projection.load_state_dict(state["projection"])
        if self.averaged is not None:
            self.averaged.load_state(state["averaged"])
        if self.anchor is not None:
            self.anchor.load_state(state["anchor"], self.device)
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        for key, value in state["schedule"].items():
            setattr(self.schedule, key, value)
