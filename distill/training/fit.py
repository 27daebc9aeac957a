"""The one training loop, for teachers and students: `fit` trains a model into a run directory.

What a batch costs and teaches is `Trainer.step`. A run that was stopped anywhere continues from
its last whole epoch, and then gives bit for bit (on a CPU) what it would have given: shuffles,
views and noise are functions of (seed, image, epoch), and the generators behind dropout are seeded
anew for each epoch. Several processes train one model together (see `world`): the main one alone
validates, decides and writes.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.data.views.images import num_batches
from distill.environment import environment
from distill.errors import NotFinite
from distill.files import sha256_of, write_bytes, write_text
from distill.models.classifier import Classifier
from distill.progress import Progress, Task
from distill.scoring.tasks import task_of
from distill.training.accumulation import effective_batch, parts, rate_line, restart_line
from distill.training.batchnorm import check_sync_batchnorm, synchronised
from distill.training.job import Job
from distill.training.optim import set_lr
from distill.training.resume import STATE, stored_state, waiting_weights
from distill.training.run_directory import BEST, ROWS, begin_run, finish_run, save_weights
from distill.training.run_log import RunLog
from distill.training.selection import Worth, chosen_score, validate, worth
from distill.training.teachers import open_teachers
from distill.training.trainer import Trainer
from distill.training.world import World, join

CHECK_EVERY = 50  # steps between looks at the loss, each of which waits for the device


@dataclass(frozen=True)
class Standing:
    """How far a run has come.

    Attributes:
        epoch: The last whole epoch; -1 before the first.
        best_epoch: The one whose weights are kept; -1 before the first validation.
        best: What it is worth, see `selection.worth`.
        waited: Validations since then.
        best_sha256: Of the file of those weights; empty where that is not known.
    """

    epoch: int = -1
    best_epoch: int = -1
    best: Worth = (-math.inf, -math.inf)
    waited: int = 0
    best_sha256: str = ""

    def after(self, epoch: int, value: Worth | None) -> Standing:
        """The standing after an epoch, which is worth `value`; None where it was not validated."""
        if value is None:
            return replace(self, epoch=epoch)
        if self.best_epoch < 0 or value > self.best:
            return Standing(epoch, epoch, value, 0)
        return replace(self, epoch=epoch, waited=self.waited + 1)


def fit(
    classifier: Classifier,
    job: Job,
    device: torch.device,
    progress: Progress,
    alone: bool = False,
    after_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Trains a model into `job.folder`, or continues what was begun there.

    Args:
        alone: Whatever processes there are, this one trains by itself.
        after_epoch: Is given the row of `metrics.jsonl` of every epoch that is kept; what it
            raises ends the run, which can be continued.

    Raises:
        UserError: The data has no such classes or scores as the options name, or the processes
            cannot do what they ask or continue what others began; nothing is written.
        NotFinite: The loss stopped being finite; the last whole epoch is kept.
    """
    config = job.config.train
    chosen_score(config.select, job.data.task)
    world = World(device) if alone else join(device)
    check_sync_batchnorm(config, world.device, world.size)
    with synchronised(classifier, config.sync_batchnorm and world.size > 1):
        trainer = Trainer(classifier, job, world, open_teachers(job, world, progress))
        standing = _resume(trainer, job.folder, progress)
        if world.is_main:
            begin_run(job.folder, job.describe(), _environment(trainer), classifier.contract)
        world.wait()
        _train(trainer, standing, progress, after_epoch)
    if world.is_main:
        finish_run(job.folder)
    world.wait()


def _train(
    trainer: Trainer,
    standing: Standing,
    progress: Progress,
    after_epoch: Callable[[Mapping[str, Any]], None] | None,
) -> None:
    """The epochs that a run still lacks, each of which is kept."""
    job, config, world = trainer.job, trainer.train, trainer.world
    if world.size > 1 or trainer.accumulate > 1:
        line = rate_line(config, len(job.images), world.size, trainer.accumulate)
        progress.say(f"{job.config.name}: {line}")
    images = num_batches(len(job.images), config.batch_size, world.size) * config.batch_size
    with (
        RunLog(job, progress.say) if world.is_main else nullcontext() as log,
        progress.task(job.config.name, config.epochs * images, "images") as bar,
    ):
        bar.skip((standing.epoch + 1) * images)
        for epoch in range(standing.epoch + 1, config.epochs):
            if config.patience and standing.waited >= config.patience:
                break
            bar.part(f"epoch {epoch + 1}/{config.epochs}", images)
            row = _train_epoch(trainer, epoch, bar)
            if epoch + 1 == config.epochs or (epoch + 1) % config.validate_every == 0:
                row |= _validate(trainer)
                _check_finite(row["val/loss"], job, epoch)
                trainer.schedule.after_epoch(row["val/loss"])
            value = worth(row, config.select, job.data.task) if "val/loss" in row else None
            standing = standing.after(epoch, value)
            if log is not None:
                standing = _keep(trainer, row, standing, log)
            if after_epoch is not None:
                after_epoch(row)
            bar.note(_summary(row, f"val/{task_of(job.data.task).main_score}", config.epochs))


def _keep(trainer: Trainer, row: dict[str, Any], standing: Standing, log: RunLog) -> Standing:
    """Puts an epoch on disk: its row, the state after it, and its weights if they are the best.

    Weights wait beside the state until that is written: so whenever the process dies, the kept
    weights are of an epoch that `metrics.jsonl` has, and that a resume does not train again.

    Returns:
        The standing with the hash of the best weights.
    """
    folder, is_best = trainer.job.folder, standing.best_epoch == standing.epoch
    waiting = waiting_weights(folder, standing.epoch)
    if is_best:
        save_weights(trainer.evaluated, waiting)
        standing = replace(standing, best_sha256=sha256_of(waiting))
    log.append(row)
    content = io.BytesIO()
    torch.save({**asdict(standing), **trainer.state()}, content)
    write_bytes(folder / STATE, content.getbuffer())
    if is_best:
        waiting.replace(folder / BEST)
    log.tell()
    return standing


def _resume(trainer: Trainer, folder: Path, progress: Progress) -> Standing:
    """Where training goes on, from `last/` if there is one; main puts the directory in order."""
    log = folder / ROWS
    is_main = trainer.world.is_main
    state = stored_state(folder, progress.say)
    if not trainer.world.from_main(state is not None):
        if is_main:
            log.unlink(missing_ok=True)
        return Standing()
    assert state is not None
    trainer.load_state(state)
    size, before = trainer.world.size, state.get("processes", trainer.world.size)
    if size != before:
        line = restart_line(before, size, trainer.accumulate)
        progress.say(f"{trainer.job.config.name}: {line}")
    known = {key: state[key] for key in asdict(Standing()) if key in state}
    if isinstance(known.get("best"), float):  # of a version that broke no ties
        known["best"] = (known["best"], -math.inf)
    standing = Standing(**{"best_epoch": state["epoch"], **known})
    if is_main:
        lines = log.read_text("utf-8").splitlines(keepends=True)
        kept = lines[: standing.epoch + 1]  # a line per epoch
        write_text(log, "".join(kept))
        for waiting in (folder / "last").glob("best-*.safetensors"):
            if waiting == waiting_weights(folder, standing.best_epoch):
                waiting.replace(folder / BEST)
            else:
                waiting.unlink()
    trainer.world.wait()
    return standing


def _train_epoch(trainer: Trainer, epoch: int, bar: Task) -> dict[str, Any]:
    """All steps of an epoch; returns its row of `metrics.jsonl`, the same on every process."""
    job, world = trainer.job, trainer.world
    trainer.begin_epoch(epoch)
    steps = num_batches(len(job.images), trainer.train.batch_size, world.size)
    start, seen = time.perf_counter(), 0
    sums: dict[str, Tensor] = {}
    lr = 0.0
    places = parts(steps, trainer.accumulate)
    for step, (batch, part) in enumerate(zip(trainer.batches(epoch), places, strict=True)):
        if part.is_first:
            lr = trainer.schedule.lr(epoch + step / steps)
            set_lr(trainer.optimizer, lr)
        for name, term in trainer.step(batch, epoch, part).items():
            sums[name] = sums.get(name, torch.zeros_like(term)) + term
        seen += len(batch.ids) * world.size
        bar.advance(len(batch.ids) * world.size)
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
            _check_finite(world.mean(sums["loss"]), job, epoch)
    names = sorted(sums)
    means = world.mean(torch.stack([sums[name].float() for name in names])) / steps
    seconds = time.perf_counter() - start
    return {
        "epoch": epoch,
        "lr": lr,
        "seconds": round(seconds, 3),
        "images_per_s": round(seen / seconds, 1),
        **{f"train/{name}": mean for name, mean in zip(names, means.tolist(), strict=True)},
    }


def _check_finite(loss: Tensor | float, job: Job, epoch: int) -> None:
    if not math.isfinite(float(loss)):
        raise NotFinite(
            f"the loss is not finite in epoch {epoch + 1}",
            job.config.name,
            f"lower train.lr (now {job.config.train.lr:g}), set train.clip_norm=1 or "
            "train.precision=fp32; repeating the command with other options needs --overwrite",
        )


def _validate(trainer: Trainer) -> dict[str, float]:
    """Scores on the validation split of what would be kept, as the main process found them."""
    world = trainer.world
    row = validate(trainer.evaluated, trainer.job.data, world.device) if world.is_main else None
    shared = world.from_main(row)
    assert shared is not None
    return shared


def _environment(trainer: Trainer) -> dict[str, Any]:
    images, size, processes = len(trainer.job.images), trainer.train.batch_size, trainer.world.size
    return environment() | {
        "device": str(trainer.device),
        "world_size": processes,
        "effective_batch": effective_batch(images, size, processes, trainer.accumulate),
        "precision": trainer.precision,
    }


def _summary(row: dict[str, Any], main: str, epochs: int) -> str:
    val = f"{main.replace('/', ' ')} {row[main]:.2f} % " if main in row else ""
    loss, rate = row["train/loss"], row["images_per_s"]
    return f"epoch {row['epoch'] + 1}/{epochs} loss {loss:.4f} {val}{rate:.0f} images/s"
