"""The engines of the training benchmark: each trains one student, and says how long it took.

Equal for all: decoded images, batched views and their order, first weights, teacher, optimiser,
batch size, epochs, and the choice of the best epoch on the validation split. What is not equal is
what is compared, or what an engine has no means for:

- `kd_lib`: VanillaKD as it is: constant learning rate, float32, a graph through the teacher,
  squared error of probabilities, BatchNorm frozen from its second epoch on.
- `timm`: `LogitDistillationTask` in a loop like that of timm's training script; on a GPU
  channels-last and bf16, which there are `--channels-last --amp --amp-dtype bfloat16`.
- `textbook`: the few lines that everybody writes, in float32, the teacher without a graph.
- `live`, `cached`, `student_only`: `training.fit`; the last one learns from labels alone.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.config import StrategyConfig
from distill.data.views.images import epoch_batches, num_batches
from distill.errors import RunStopped, UserError
from distill.models.classifier import Classifier
from distill.models.inference import predict_logits
from distill.progress import Progress
from distill.scoring.metrics import score, softmax
from distill.strategies import make_strategy
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.kd_lib import import_kd_lib, make_learner
from distill.training.kd_lib_loaders import Logits, TrainViews, ValImages
from distill.training.optim import Schedule, make_optimizer, set_lr
from distill.training.run_directory import BEST, ROWS, load_weights
from distill.training.teachers import build_caches
from distill.training.world import World

Engine = Literal["kd_lib", "timm", "textbook", "live", "cached", "student_only"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
ASKS_TEACHER: tuple[Engine, ...] = ("kd_lib", "timm", "textbook", "live")  # at every step
QUIET = Progress(quiet=True)
LossOf = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Workload:
    """A student where its training starts, and the job that `live` would do.

    Attributes:
        student: On no particular device; afterwards it has the weights of its best epoch.
        job: With one teacher and a `cache` folder; strategy `vanilla`.
    """

    student: Classifier
    job: Job
    device: torch.device

    @property
    def teacher(self) -> Classifier:
        """The only teacher, on the device and in evaluation mode."""
        (teacher,) = self.job.teachers
        return teacher.to(self.device).eval()


@dataclass
class Measured:
    """Seconds of training of each epoch, validation not counted; of building a cache, if any."""

    epoch_seconds: list[float] = field(default_factory=list)
    cache_seconds: float | None = None


def check_engine(engine: Engine) -> None:
    """Imports what an engine needs.

    Raises:
        UserError: That is not installed; the message says how to install it.
    """
    if engine == "kd_lib":
        import_kd_lib()
    if engine == "timm":
        try:
            import timm.task  # noqa: F401
        except ImportError:
            hint = "pip install 'timm>=1.0.31'"
            raise UserError("this timm has no timm.task", "--engines timm", hint) from None


def train_with(engine: Engine, workload: Workload) -> Measured:
    """Trains the student of a workload with an engine; `job.folder` is free for what it writes.

    Raises:
        RunStopped: The loss stopped being finite.
    """
    match engine:
        case "kd_lib":
            return _train_with_kd_lib(workload)
        case "timm":
            return _train_with_timm(workload)
        case "textbook":
            return _train_by_the_book(workload)
        case "live":
            return _fit(workload, replace(workload.job, cache=None))
        case "cached":
            start = time.perf_counter()
            build_caches(workload.job, World(workload.device), QUIET)
            seconds = time.perf_counter() - start
            return replace(_fit(workload, workload.job), cache_seconds=seconds)
        case "student_only":
            update = {"strategy": StrategyConfig(name="supervised")}
            config = workload.job.config.model_copy(update=update)
            return _fit(workload, replace(workload.job, config=config, teachers=(), cache=None))


def top1(classifier: Classifier, job: Job, device: torch.device, split: str = "test") -> float:
    """Accuracy on a split, in percent."""
    data = job.data
    probs = softmax(predict_logits(classifier.to(device), data.splits[split], device))
    return float(score(probs, data.splits[split].labels, data.classes)["top1"])


def _fit(workload: Workload, job: Job) -> Measured:
    """Our own loop."""
    fit(workload.student, job, workload.device, QUIET)
    load_weights(workload.student, job.folder / BEST)
    lines = (job.folder / ROWS).read_text().splitlines()
    return Measured([json.loads(line)["seconds"] for line in lines])


def _train_with_kd_lib(workload: Workload) -> Measured:
    """KD_Lib's own loop and loss, which read our views; it validates when an epoch has ended."""
    job, device, measured = workload.job, workload.device, Measured()
    library, epochs = import_kd_lib(), workload.job.config.train.epochs

    def epoch_ended() -> None:
        measured.epoch_seconds.append(time.perf_counter() - train.started)

    with QUIET.task("kd_lib", epochs, "images") as bar:
        train = TrainViews(job, device, bar)
        val = ValImages(job, device, epoch_ended)
        with contextlib.redirect_stdout(io.StringIO()):
            learner = make_learner(library, workload.student, job, train, val, device)
            unused = str(job.folder / "unused.pt")  # nothing is saved there, only looked up
            learner.train_student(
                epochs, plot_losses=False, save_model=False, save_model_pth=unused
            )
    return measured


def _train_by_the_book(workload: Workload) -> Measured:
    student, teacher = workload.student.to(workload.device), workload.teacher
    options = make_strategy(workload.job.config.strategy).model_dump()
    temperature, kd_weight = options["temperature"], options["kd_weight"]

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            targets = F.softmax(teacher(images).logits / temperature, dim=1)
        logits = student(images).logits
        log_probs = F.log_softmax(logits / temperature, dim=1)
        kd = F.kl_div(log_probs, targets, reduction="batchmean") * temperature**2
        loss: Tensor = kd_weight * kd + (1.0 - kd_weight) * F.cross_entropy(logits, labels)
        return loss

    return _plain_loop(workload, loss_of)


class TimmModel(Logits):
    """A classifier as timm's tasks want models; ours normalise for themselves.

    Attributes:
        pretrained_cfg: No further normalisation; equal in both models, timm converts nothing.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        self.num_classes, self.in_chans = len(classifier.contract.names), 3
        self.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def timm_task(student: nn.Module, teacher: nn.Module, options: dict[str, Any], device: Any) -> Any:
    """timm's task with the temperature and weights of our strategy `vanilla`."""
    from timm.task import LogitDistillationTask

    return LogitDistillationTask(
        student_model=student,
        teacher_model=teacher,
        criterion=nn.CrossEntropyLoss(),
        task_loss_weight=1.0 - options["kd_weight"],
        temperature=options["temperature"],
        device=device,
        verbose=False,
    )


def _train_with_timm(workload: Workload) -> Measured:
    device, options = workload.device, make_strategy(workload.job.config.strategy).model_dump()
    student = TimmModel(workload.student.to(device))
    task = timm_task(student, TimmModel(workload.teacher), options, device)
    if device.type == "cuda":
        task.to(memory_format=torch.channels_last)
    task.train()
    precision = workload.job.config.train.precision
    can = device.type == "cuda" and torch.cuda.is_bf16_supported()
    half = precision == "bf16" or (precision == "auto" and can)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        if device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss: Tensor = task(images, labels)["loss"]
        return loss

    return _plain_loop(workload, loss_of)


def _plain_loop(workload: Workload, loss_of: LossOf) -> Measured:
    """A loop without an engine; the student ends up with the weights of its best epoch.

    The loss is not looked at in between: on a GPU every look waits.
    """
    student, job, device = workload.student, workload.job, workload.device
    config, count, seconds = job.config.train, len(job.images), []
    optimizer, schedule = make_optimizer(student, config, job.config.transfer), Schedule(config)
    steps, best, kept = num_batches(count, config.batch_size), -1.0, student.state_dict()
    for epoch in range(config.epochs):
        student.train()
        start, total = time.perf_counter(), torch.zeros((), device=device)
        for step, ids in enumerate(epoch_batches(count, config.batch_size, job.seed, epoch)):
            images = job.images.view(ids, epoch, device)
            labels = torch.from_numpy(job.images.labels[ids]).to(device)
            set_lr(optimizer, schedule.lr(epoch + step / steps))
            loss = loss_of(images, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach()
        mean = float(total) / steps  # waits for the device
        seconds.append(time.perf_counter() - start)
        if not math.isfinite(mean):
            raise RunStopped(f"the loss is not finite in epoch {epoch + 1}", "--lr", "lower it")
        value = top1(student, job, device, "val")
        if value > best:
            best, kept = value, copy.deepcopy(student.state_dict())
    student.load_state_dict(kept)
    return Measured(seconds)
