"""The one training loop, for teachers and students: `fit` trains a model into a run directory.

What a batch costs and teaches is `Trainer.step`; what an epoch does is `fit`. A run that was
stopped anywhere continues from its last whole epoch, and then gives bit for bit (on a CPU) what
it would have given: shuffles, views and noise are functions of (seed, image, epoch), and the
generators behind dropout are seeded anew for each epoch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill import run
from distill.config import RunConfig, TrainConfig, ViewsConfig
from distill.data.draws import Draws
from distill.data.prepare import ImageData, epoch_batches, num_batches
from distill.data.store import Split
from distill.data.views import make_views, to_unit
from distill.errors import RunStopped, UserError
from distill.losses import cross_entropy, mix
from distill.metrics import score, softmax
from distill.models import Classifier
from distill.optim import Schedule, first_trained_stage, make_optimizer, set_lr, set_trainable
from distill.progress import Progress, Task
from distill.strategies import make_strategy
from distill.teacher import LiveTeachers

AUX_WEIGHT = 0.4  # Szegedy et al., 2015, arXiv:1512.00567: the auxiliary head's share of the loss
CHECK_EVERY = 50  # steps between looks at the loss, each of which waits for the device
EVAL_BATCH = 256


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
        self.class_weights = _class_weights(self.train, job.data, self.device)
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


def fit(classifier: Classifier, job: Job, device: torch.device, progress: Progress) -> None:
    """Trains a model into `job.folder`, or continues what was begun there.

    Raises:
        RunStopped: The loss stopped being finite; the last whole epoch is kept.
    """
    trainer = Trainer(classifier, job, device)
    is_main = trainer.accelerator.is_main_process
    if is_main:
        run.write_json(job.folder / "config.json", job.describe())
        run.write_json(job.folder / "env.json", _environment(trainer))
        contract = classifier.contract.model_dump(mode="json")
        run.write_json(job.folder / "contract.json", contract)
    first, best, waited = _resume(trainer, job.folder)
    config = job.config.train
    world = trainer.accelerator.num_processes
    steps = num_batches(len(job.data.train.labels), config.batch_size, world)
    with progress.task(job.config.name, config.epochs * steps * config.batch_size, "images") as bar:
        bar.skip(first * steps * config.batch_size)
        for epoch in range(first, config.epochs):
            if config.patience and waited >= config.patience:
                break
            row = _train_epoch(trainer, epoch, bar)
            value, scores = _validate(trainer)
            _check_finite(scores["nll"], job, epoch)
            row |= {"val/top1": scores["top1"], "val/loss": scores["nll"]}
            row["val/macro_f1"] = scores["macro_f1"]
            trainer.schedule.after_epoch(scores["nll"])
            better = value > best
            best, waited = (value, 0) if better else (best, waited + 1)
            if is_main:
                if better:
                    save_weights(trainer.evaluated, job.folder / "best.safetensors")
                run.append_line(job.folder / "metrics.jsonl", row)
                _save_state(trainer.state(epoch, best, waited), job.folder)
            bar.note(_summary(row, epoch, config.epochs))
    trainer.accelerator.wait_for_everyone()
    if is_main:
        run.write_manifest(job.folder, run.files_below(job.folder))


def _train_epoch(trainer: Trainer, epoch: int, bar: Task) -> dict[str, Any]:
    """All steps of an epoch; returns its row of `metrics.jsonl`."""
    job, accelerator = trainer.job, trainer.accelerator
    trainer.begin_epoch(epoch)
    count, batch_size = len(job.data.train.labels), trainer.train.batch_size
    world, rank = accelerator.num_processes, accelerator.process_index
    steps = num_batches(count, batch_size, world)
    start, seen = time.perf_counter(), 0
    sums: dict[str, Tensor] = {}
    lr = 0.0
    for step, ids in enumerate(epoch_batches(count, batch_size, job.seed, epoch, rank, world)):
        lr = trainer.schedule.lr(epoch + step / steps)
        set_lr(trainer.optimizer, lr)
        for name, term in trainer.step(ids, epoch, step).items():
            sums[name] = sums.get(name, torch.zeros_like(term)) + term
        seen += len(ids) * world
        bar.advance(len(ids) * world)
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
            _check_finite(sums["loss"], job, epoch)
    means = {f"train/{name}": float(total) / steps for name, total in sums.items()}
    seconds = time.perf_counter() - start
    return {
        "epoch": epoch,
        "lr": lr,
        "seconds": round(seconds, 3),
        "images_per_s": round(seen / seconds, 1),
        **means,
    }


def _check_finite(loss: Tensor | float, job: Job, epoch: int) -> None:
    if not math.isfinite(float(loss)):
        raise RunStopped(
            f"the loss of {job.config.name} is not finite in epoch {epoch + 1}: lower train.lr "
            f"(now {job.config.train.lr:g}), set train.clip_norm=1 or train.precision=fp32; "
            "repeating the command with other options needs --overwrite"
        )


def _validate(trainer: Trainer) -> tuple[float, dict[str, Any]]:
    """The score that chooses `best` (higher is better), and all scores."""
    data, config = trainer.job.data, trainer.train
    model = trainer.evaluated
    if trainer.accelerator.num_processes > 1:
        # Each rank has seen other images, so its BatchNorm statistics are its own until here.
        broadcast(list(model.buffers()))
    probs = softmax(predict_logits(model, data.val, trainer.device))
    scores = score(probs, data.val.labels, data.classes)
    value = -scores["nll"] if config.select == "loss" else scores[config.select]
    return float(value), scores


def predict_logits(
    classifier: Classifier, split: Split, device: torch.device
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits `(n, num_classes)` of every image of a validation or test split, in their order."""
    was_training = classifier.training
    classifier.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(split.labels), EVAL_BATCH):
            images = to_unit(split.pixels[start : start + EVAL_BATCH], device)
            parts.append(classifier(images).logits.float().cpu())
    classifier.train(was_training)
    return torch.cat(parts).numpy()


def save_weights(classifier: Classifier, path: Path) -> None:
    """Writes the network's weights as safetensors."""
    state = classifier.network.state_dict()
    with run.atomic(path) as temporary:
        save_file({n: t.detach().cpu().contiguous() for n, t in state.items()}, temporary)


def load_weights(classifier: Classifier, path: Path) -> Classifier:
    """Reads what `save_weights` wrote into the same architecture."""
    classifier.network.load_state_dict(load_file(path))
    return classifier


def _save_state(state: dict[str, Any], folder: Path) -> None:
    with run.atomic(folder / "last" / "state.pt") as temporary:
        torch.save(state, temporary)


def _resume(trainer: Trainer, folder: Path) -> tuple[int, float, int]:
    """Next epoch, best score and epochs since, from `last/` if there is one."""
    file, log = folder / "last" / "state.pt", folder / "metrics.jsonl"
    if not file.is_file():
        log.unlink(missing_ok=True)
        return 0, -math.inf, 0
    state = torch.load(file, map_location=trainer.device, weights_only=True)
    trainer.load_state(state)
    lines = log.read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["epoch"] <= state["epoch"]]
    with run.atomic(log) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept))
    return state["epoch"] + 1, state["best"], state["waited"]


def _averaged(classifier: Classifier, decay: float) -> AveragedModel | None:
    if decay == 0:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(classifier, multi_avg_fn=average, use_buffers=True)


def _class_weights(config: TrainConfig, data: ImageData, device: torch.device) -> Tensor | None:
    """A weight per class, or None."""
    if config.class_weights == "none":
        return None
    if config.class_weights == "balanced":
        counts = torch.tensor(data.class_counts("train"), dtype=torch.float32)
        weights = counts.sum() / (len(counts) * counts)
    else:
        weights = torch.tensor([config.class_weights[name] for name in data.classes])
    return weights.to(device)


def _environment(trainer: Trainer) -> dict[str, Any]:
    found = run.environment()
    return found | {
        "device": str(trainer.device),
        "world_size": trainer.accelerator.num_processes,
        "precision": trainer.accelerator.mixed_precision,
    }


def _summary(row: dict[str, Any], epoch: int, epochs: int) -> str:
    loss, top1, rate = row["train/loss"], row["val/top1"], row["images_per_s"]
    return f"epoch {epoch + 1}/{epochs} loss {loss:.4f} val {top1:.2f} % {rate:.0f} images/s"
