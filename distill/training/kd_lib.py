"""The optional engine `kd_lib`: a student trained by KD_Lib 0.0.32 itself, for those who know it.

Data, views, optimiser, model and run directory are ours; the loop and the losses are KD_Lib's own,
and nothing in them is repaired. What KD_Lib has no means for is refused (`check_kd_lib`), but for
three things that hold for every run: the learning rate stays at `train.lr` (it has no schedules),
training is float32, and an interrupted run starts anew (it cannot resume).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import random
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.config import RunConfig, TaskName, TrainConfig, TransferConfig
from distill.data.views.images import num_batches
from distill.environment import environment, num_processes
from distill.errors import DistillError, RunStopped, UserError
from distill.models.classifier import Classifier
from distill.progress import Progress
from distill.progress import Task as Bar
from distill.strategies import make_strategy
from distill.training.job import Job
from distill.training.kd_lib_loaders import Logits, TrainViews, ValImages
from distill.training.optim import make_optimizer, set_lr
from distill.training.run_directory import BEST, CONFIG, ROWS, begin_run, finish_run, save_weights
from distill.training.run_log import RunLog
from distill.training.selection import Worth, validate, worth

STRATEGIES = {
    "vanilla": "VanillaKD",
    "noisy_teacher": "NoisyTeacher",
    "self_training": "SelfTraining",
    "messy_collaboration": "MessyCollab",
}
NO_TRAIN = (
    *("mixup", "ema_decay", "label_smoothing", "clip_norm", "class_weights", "patience"),
    *("sampling", "focal_gamma", "logit_adjustment", "accumulate", "compile", "validate_every"),
    "shift",
)
NO_TRANSFER = ("mode", "freeze_epochs")
TEXT = "KD_Lib.KD.text"


def import_kd_lib() -> Any:
    """The package `KD_Lib.KD`.

    Its text models need torchtext.legacy and transformers.AdamW, which no longer exist, so an
    empty module stands in for them.

    Raises:
        UserError: KD_Lib, or something that it needs, is not installed.
    """
    stub: Any = ModuleType(TEXT)
    stub.BERT2LSTM = stub.get_essentials = None
    sys.modules.setdefault(TEXT, stub)
    try:
        return importlib.import_module("KD_Lib.KD")
    except ImportError as error:
        sys.modules.pop(TEXT)
        absent = (error.name or "").startswith("KD_Lib")
        what = "KD_Lib is not installed" if absent else f"KD_Lib cannot be imported: {error}"
        raise UserError(what, 'engine = "kd_lib"', "make kd-lib") from None


def check_kd_lib(config: RunConfig, task: TaskName = "single") -> None:
    """Checks that KD_Lib has the means for a run, before any training starts.

    Raises:
        UserError: A strategy without a counterpart there, an option it would not look at, or
            several labels per image.
    """
    if task == "multi":
        what = "KD_Lib knows one label per image, data.task is 'multi'"
        raise UserError(what, f"{config.name}.engine", 'set engine = "distill"')
    if config.strategy.name not in STRATEGIES:
        what = f"KD_Lib has no counterpart of strategy {config.strategy.name!r}"
        raise UserError(what, f"{config.name}.engine", f"choose one of {', '.join(STRATEGIES)}")
    if config.strategy.name == "self_training" and config.teachers != ("best",):
        what = f"KD_Lib trains the self-teacher itself, got {config.teachers}"
        raise UserError(what, f"{config.name}.teachers", "leave it out")
    if len(config.teachers) > 1:
        what = f"KD_Lib takes one teacher, got {len(config.teachers)}"
        raise UserError(what, f"{config.name}.teachers", 'name one, or engine = "distill"')
    groups = (("train", NO_TRAIN, TrainConfig()), ("transfer", NO_TRANSFER, TransferConfig()))
    for group, keys, defaults in groups:
        for key in keys:
            value, default = getattr(getattr(config, group), key), getattr(defaults, key)
            if value != default:
                _refuse(config, f"{group}.{key}", value, default)
    if config.cache.top_k:
        _refuse(config, "cache.top_k", config.cache.top_k, 0)
    if config.train.precision not in ("auto", "fp32"):
        _refuse(config, "train.precision", config.train.precision, "fp32")


def _refuse(config: RunConfig, key: str, value: Any, allowed: Any) -> None:
    hint = f'set {allowed!r}, or engine = "distill"'
    raise UserError(f"KD_Lib cannot do it, got {value!r}", f"{config.name}.{key}", hint)


class Journal:
    """Rows and `best.safetensors` of a student that KD_Lib trains.

    KD_Lib reveals an accuracy, so each epoch is validated a second time for the other scores. Time
    is that of the student's training: what a self-teacher took before is in no row.
    """

    def __init__(
        self,
        classifier: Classifier,
        job: Job,
        device: torch.device,
        train: TrainViews,
        bar: Bar,
        log: RunLog,
    ) -> None:
        self._classifier, self._job, self._device = classifier, job, device
        self._train, self._bar, self._log = train, bar, log
        self._epoch = 0
        self._best: Worth = (-math.inf, -math.inf)
        self._losses: list[Tensor] = []

    def watch(self, learner: Any) -> None:
        """Listens to the losses of a KD_Lib object."""
        calculate = learner.calculate_kd_loss

        def calculate_and_note(*tensors: Tensor) -> Tensor:
            loss: Tensor = calculate(*tensors)
            self._losses.append(loss.detach())
            return loss

        learner.calculate_kd_loss = calculate_and_note

    def epoch_ended(self) -> None:
        """Scores the student, writes its row, and keeps its weights if it is the best so far.

        Raises:
            RunStopped: The loss is not finite.
        """
        config, data = self._job.config.train, self._job.data
        loss = float(torch.stack(self._losses).mean())
        seconds = time.perf_counter() - self._train.started
        seen = len(self._losses) * min(config.batch_size, len(data.train.labels))
        self._losses = []
        self._check_finite(loss)
        scores = validate(self._classifier, data, self._device)
        self._check_finite(scores["val/loss"])
        value = worth(scores, config.select, data.task)
        if value > self._best:
            self._best = value
            save_weights(self._classifier, self._job.folder / BEST)
        row = {
            "epoch": self._epoch,
            "lr": config.lr,
            "seconds": round(seconds, 3),
            "images_per_s": round(seen / seconds, 1),
            "train/loss": loss,
            **scores,
        }
        self._log.append(row)
        self._log.tell()
        self._epoch += 1
        done = f"epoch {self._epoch}/{config.epochs} loss {loss:.4f}"
        self._bar.note(f"{done} val {scores['val/top1']:.2f} % {row['images_per_s']:.0f}/s")

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunStopped(
                f"the loss is not finite in epoch {self._epoch + 1} of KD_Lib",
                self._job.config.name,
                f"lower train.lr (now {self._job.config.train.lr:g})",
            )


def fit_with_kd_lib(
    classifier: Classifier, job: Job, device: torch.device, progress: Progress
) -> None:
    """Trains a student with KD_Lib into `job.folder`, which ends up as by `fit`, less `last/`.

    Raises:
        UserError: KD_Lib is missing or cannot do what is asked; nothing was written.
        RunStopped: KD_Lib failed; what was begun is not resumed.
    """
    check_kd_lib(job.config, job.data.task)
    if any(job.teacher_adjustments):
        what = "KD_Lib would take a logit-adjusted teacher's logits as they are"
        raise UserError(what, f"{job.config.name}.teachers", 'set engine = "distill", or another')
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"KD_Lib knows no device {device.type!r}", "--device", "use cpu or cuda")
    if num_processes() > 1:
        raise UserError(
            "KD_Lib trains in one process", f"{job.config.name}.engine", "start it without torchrun"
        )
    library = import_kd_lib()
    _begin(classifier, job, device, progress)
    epochs, count = job.config.train.epochs, len(job.data.train.labels)
    passes = 2 * epochs if job.config.strategy.name == "self_training" else epochs
    random.seed(job.seed)
    np.random.seed(job.seed)
    torch.manual_seed(job.seed)
    batch_size = job.config.train.batch_size
    images = passes * num_batches(count, batch_size) * min(batch_size, count)
    with (
        RunLog(job, progress.say) as log,
        progress.task(job.config.name, images, "images") as bar,
    ):
        train = TrainViews(job, device, bar)
        journal = Journal(classifier, job, device, train, bar, log)
        val = ValImages(job, device, journal.epoch_ended)
        with _blaming(job), _on(device), contextlib.redirect_stdout(io.StringIO()):
            learner = make_learner(library, classifier, job, train, val, device)
            journal.watch(learner)
            # It creates the folder of this path, by default ./models, although it saves nothing.
            unused = str(job.folder / "unused.pt")
            learner.train_student(
                epochs, plot_losses=False, save_model=False, save_model_pth=unused
            )
    finish_run(job.folder)


def make_learner(
    library: Any, classifier: Classifier, job: Job, train: Any, val: Any, device: torch.device
) -> Any:
    """KD_Lib's object for the strategy of a run: our options, its own loss functions."""
    name = job.config.strategy.name
    student = Logits(classifier.to(device))
    optimizer = make_optimizer(classifier, job.config.train, job.config.transfer)
    set_lr(optimizer, job.config.train.lr)
    options = make_strategy(job.config.strategy).model_dump()
    arguments = {
        "temp": options["temperature"],
        "distil_weight": options["kd_weight"],
        "device": device.type,
    }
    if name == "noisy_teacher":
        arguments |= {"alpha": options["noise_share"], "noise_variance": options["noise_std"] ** 2}
    if name == "messy_collaboration":
        arguments |= {"noise_rate": options["label_noise"]}
    method = getattr(library, STRATEGIES[name])
    if name == "self_training":
        return method(student, train, val, optimizer, **arguments)
    (teacher,) = job.teachers
    return method(Logits(teacher), student, train, val, None, optimizer, **arguments)


def _begin(classifier: Classifier, job: Job, device: torch.device, progress: Progress) -> None:
    """Clears what an interrupted run left and writes what is known before training."""
    config, folder = job.config, job.folder
    if (folder / CONFIG).is_file():
        progress.say(f"{config.name}: KD_Lib cannot resume, so this run starts anew")
    if config.train.schedule != "constant" or config.train.warmup_epochs > 0:
        progress.say(f"{config.name}: KD_Lib has no schedules, lr stays {config.train.lr:g}")
    for name in (ROWS, BEST):
        (folder / name).unlink(missing_ok=True)
    machine = {"device": str(device), "world_size": 1, "precision": "fp32"}
    begin_run(folder, job.describe(), environment() | machine, classifier.contract)


@contextlib.contextmanager
def _blaming(job: Job) -> Iterator[None]:
    """Turns what KD_Lib raises into an error that says that it was KD_Lib."""
    try:
        yield
    except DistillError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or ["no message"]
        raise RunStopped(
            f"KD_Lib's {STRATEGIES[job.config.strategy.name]} failed: "
            f"{type(error).__name__}: {lines[0]}",
            job.config.name,
            'engine = "distill" has this strategy without KD_Lib\'s defects',
        ) from error


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes `cuda:1` the current GPU, as KD_Lib only knows "cuda"."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
