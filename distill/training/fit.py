"""The one training loop, for teachers and students: `fit` trains a model into a run directory.

What a batch costs and teaches is `Trainer.step`. A run that was
stopped anywhere continues from its last whole epoch, and then gives bit for bit (on a CPU) what
it would have given: shuffles, views and noise are functions of (seed, image, epoch), and the
generators behind dropout are seeded anew for each epoch.
"""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor

from distill.data.views.images import num_batches
from distill.environment import environment
from distill.errors import RunStopped
from distill.files import append_line, atomic, files_below, write_json, write_manifest
from distill.models.classifier import Classifier
from distill.models.inference import predict_logits
from distill.progress import Progress, Task
from distill.scoring.metrics import main_score, probabilities, score
from distill.training.job import Job
from distill.training.optim import set_lr
from distill.training.run_directory import save_weights
from distill.training.selection import chosen_score, validation_row, worth
from distill.training.teachers import open_teachers
from distill.training.trainer import Trainer, make_accelerator

CHECK_EVERY = 50  # steps between looks at the loss, each of which waits for the device


def fit(classifier: Classifier, job: Job, device: torch.device, progress: Progress) -> None:
    """Trains a model into `job.folder`, or continues what was begun there.

    Raises:
        UserError: The data has no such classes or scores as the options name.
        RunStopped: The loss stopped being finite; the last whole epoch is kept.
    """
    chosen_score(job.config.train.select, job.data.task)
    accelerator = make_accelerator(device, job.config.train.precision)
    teachers = open_teachers(job, accelerator, progress)
    trainer = Trainer(classifier, job, accelerator, teachers)
    is_main = trainer.accelerator.is_main_process
    if is_main:
        write_json(job.folder / "config.json", job.describe())
        write_json(job.folder / "env.json", _environment(trainer))
        contract = classifier.contract.model_dump(mode="json")
        write_json(job.folder / "contract.json", contract)
    first, best, waited = _resume(trainer, job.folder)
    config = job.config.train
    world = trainer.accelerator.num_processes
    steps = num_batches(len(job.images), config.batch_size, world)
    with progress.task(job.config.name, config.epochs * steps * config.batch_size, "images") as bar:
        bar.skip(first * steps * config.batch_size)
        for epoch in range(first, config.epochs):
            if config.patience and waited >= config.patience:
                break
            row = _train_epoch(trainer, epoch, bar)
            better, last = False, epoch + 1 == config.epochs
            if last or (epoch + 1) % config.validate_every == 0:
                row |= _validate(trainer)
                _check_finite(row["val/loss"], job, epoch)
                trainer.schedule.after_epoch(row["val/loss"])
                value = worth(row, config.select, job.data.task)
                better = value > best
            best, waited = (value, 0) if better else (best, waited + 1)
            if is_main:
                if better:
                    save_weights(trainer.evaluated, job.folder / "best.safetensors")
                append_line(job.folder / "metrics.jsonl", row)
                _save_state(trainer.state(epoch, best, waited), job.folder)
            bar.note(_summary(row, f"val/{main_score(job.data.task)}", config.epochs))
    trainer.accelerator.wait_for_everyone()
    if is_main:
        write_manifest(job.folder, files_below(job.folder))


def _train_epoch(trainer: Trainer, epoch: int, bar: Task) -> dict[str, Any]:
    """All steps of an epoch; returns its row of `metrics.jsonl`."""
    job, accelerator = trainer.job, trainer.accelerator
    trainer.begin_epoch(epoch)
    world = accelerator.num_processes
    steps = num_batches(len(job.images), trainer.train.batch_size, world)
    start, seen = time.perf_counter(), 0
    sums: dict[str, Tensor] = {}
    lr = 0.0
    for step, batch in enumerate(trainer.batches(epoch)):
        lr = trainer.schedule.lr(epoch + step / steps)
        set_lr(trainer.optimizer, lr)
        for name, term in trainer.step(batch, epoch).items():
            sums[name] = sums.get(name, torch.zeros_like(term)) + term
        seen += len(batch.ids) * world
        bar.advance(len(batch.ids) * world)
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


def _validate(trainer: Trainer) -> dict[str, float]:
    """Scores on the validation split."""
    data, model = trainer.job.data, trainer.evaluated
    if trainer.accelerator.num_processes > 1:
        # Each rank has seen other images, so its BatchNorm statistics are its own until here.
        broadcast(list(model.buffers()))
    probs = probabilities(predict_logits(model, data.val, trainer.device), data.task)
    return validation_row(score(probs, data.val.labels, data.classes), data.task)


def _save_state(state: dict[str, Any], folder: Path) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    with atomic(folder / "last" / "state.pt") as temporary:
        temporary.write_bytes(content.getbuffer())


def _resume(trainer: Trainer, folder: Path) -> tuple[int, float, int]:
    """Next epoch, best score and epochs since, from `last/` if there is one."""
    file, log = folder / "last" / "state.pt", folder / "metrics.jsonl"
    if not file.is_file():
        log.unlink(missing_ok=True)
        return 0, -math.inf, 0
    state = torch.load(file, map_location=trainer.device, weights_only=True)
    trainer.load_state(state)
    kept = log.read_text().splitlines(keepends=True)[: state["epoch"] + 1]  # a line per epoch
    with atomic(log) as temporary:
        temporary.write_text("".join(kept))
    return state["epoch"] + 1, state["best"], state["waited"]


def _environment(trainer: Trainer) -> dict[str, Any]:
    found = environment()
    return found | {
        "device": str(trainer.device),
        "world_size": trainer.accelerator.num_processes,
        "precision": trainer.accelerator.mixed_precision,
    }


def _summary(row: dict[str, Any], main: str, epochs: int) -> str:
    val = f"{main.replace('/', ' ')} {row[main]:.2f} % " if main in row else ""
    loss, rate = row["train/loss"], row["images_per_s"]
    return f"epoch {row['epoch'] + 1}/{epochs} loss {loss:.4f} {val}{rate:.0f} images/s"
