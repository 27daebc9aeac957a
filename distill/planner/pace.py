"""How fast a network trains and answers on this machine, tried for a few seconds each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from distill.config import Recipe, RunConfig, StrategyConfig
from distill.data.prepare import ImageData, input_spec, stored_spec
from distill.data.store import Split
from distill.errors import UserError
from distill.models.classifier import Classifier, build_classifier
from distill.models.inference import predict_logits
from distill.pipeline.plan import of_run
from distill.progress import Progress
from distill.teaching.answers import Teacher
from distill.teaching.cache_build import batch_size
from distill.training.job import Job
from distill.training.trainer import Trainer
from distill.training.world import World

SECONDS, BRIEFLY = 2.0, 0.4  # of each thing that is timed: to plan by, and to be told
FEWEST, MOST = 3, 40  # times that it is done
NOWHERE = Path("noise")


class Pace(NamedTuple):
    """Seconds per image.

    Attributes:
        frozen: Of a step that trains the head alone.
        validate: Of an answer on a decoded image, as validation asks.
        answer: Of an answer on a training view, as a teacher gives it.
        spread: Of single steps about their median, as a share: half of what the middle half spans.
    """

    train: float
    frozen: float
    validate: float
    answer: float
    spread: float


def take_paces(
    recipe: Recipe,
    classes: tuple[str, ...],
    device: torch.device,
    progress: Progress,
    brief: bool = False,
) -> dict[str, Pace]:
    """Paces of a recipe's runs by name; runs that train the same network alike share one.

    Args:
        brief: Less time for each, and networks without the weights that they start from.

    Raises:
        UserError: The weights that a network starts from cannot be had.
    """
    runs = (*recipe.teachers, *recipe.students)
    paces, timed = dict[str, Pace](), list[tuple[RunConfig, Pace]]()
    title = f"time networks at {recipe.data.size} px"
    if not brief:
        progress.say(f"{title}: {len(runs)}, to plan with")
    with progress.task(title, len(runs), "networks") as task:
        for config in runs:
            pace = next((pace for known, pace in timed if alike(known, config)), None)
            if pace is None:
                try:
                    classifier = build_classifier(
                        config.model, classes, input_spec(recipe.data), not brief, recipe.data.task
                    )
                except UserError as error:
                    raise of_run(error, recipe.key(config)) from None
                pace = take_pace(classifier, config, recipe, device, brief)
                timed.append((config, pace))
            paces[config.name] = pace
            task.advance()
    return paces


def alike(first: RunConfig, second: RunConfig) -> bool:
    """Whether steps of two runs take as long, but for their teachers."""
    apart = {"epochs": 1, "lr": 1.0, "views": "all"}
    one, other = (run.train.model_copy(update=apart) for run in (first, second))
    same = (first.model, first.transfer) == (second.model, second.transfer)
    return same and one == other


def take_pace(
    classifier: Classifier,
    config: RunConfig,
    recipe: Recipe,
    device: torch.device,
    brief: bool = False,
) -> Pace:
    """Times a network in the loop that will train it, on noise; its weights are spoilt."""
    # Noise need not have every class, which what depends on their sizes would ask for.
    spared = {"class_weights": "none", "logit_adjustment": 0.0, "compile": False}
    train = config.train.model_copy(update=spared)
    update = {"strategy": StrategyConfig(name="supervised"), "start": None, "train": train}
    alone = config.model_copy(update=update)
    count = max(config.train.batch_size, batch_size(device))
    data = noise(recipe, classifier.contract.names, count)
    job = Job(alone, data, recipe.views, recipe.seed, NOWHERE)
    trainer = Trainer(classifier, job, World(device), None)
    seconds = BRIEFLY if brief else SECONDS
    steps = _step_times(trainer, config.transfer.freeze_epochs, seconds)
    head = _step_times(trainer, 0, seconds) if config.transfer.freeze_epochs else steps
    images = config.train.batch_size
    ids = np.arange(count)
    validating = _times(lambda: predict_logits(classifier, data.val, device), seconds)
    teacher = Teacher(classifier, device)
    answering = _times(lambda: teacher(job.images.view(ids, 0, device)).logits.cpu(), seconds)
    middle = statistics.median(steps)
    low, _, high = statistics.quantiles(steps, n=4)
    return Pace(
        train=middle / images,
        frozen=statistics.median(head) / images,
        validate=statistics.median(validating) / count,
        answer=statistics.median(answering) / count,
        spread=(high - low) / middle / 2,
    )


def _step_times(trainer: Trainer, epoch: int, seconds: float) -> list[float]:
    """Seconds of single training steps, views included."""
    trainer.begin_epoch(epoch)

    def step() -> None:
        batch = next(trainer.batches(epoch))
        float(trainer.step(batch, epoch)["loss"])  # waits for a GPU

    return _times(step, seconds)


def _times(work: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, the first of which allocates and does not count."""
    work()
    spent: list[float] = []
    while len(spent) < FEWEST or (sum(spent) < seconds and len(spent) < MOST):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return spent


def noise(recipe: Recipe, classes: tuple[str, ...], count: int) -> ImageData:
    """Images that show nothing, decoded: as many as a batch has."""
    random, spec = np.random.default_rng(0), input_spec(recipe.data)
    labels = np.arange(count) % len(classes)
    if recipe.data.task == "multi":
        labels = np.eye(len(classes), dtype=np.int64)[labels]

    def split(name: str, side: int) -> Split:
        pixels = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        names = tuple(map(str, range(count)))
        return Split(name, pixels, labels, names, names)

    stored = stored_spec(recipe.data, recipe.views).height
    splits = {
        "train": split("train", stored),
        "val": split("val", spec.height),
        "test": split("test", spec.height),
    }
    return ImageData("noise", classes, spec, splits, (), "", recipe.data.task)
