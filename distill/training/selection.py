"""Which scores a task has, which of them chooses the best epoch, and what it rules out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distill.config import RunConfig, TaskName
from distill.data.prepare import ImageData
from distill.errors import UserError
from distill.models.classifier import Classifier
from distill.models.inference import predict_logits
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of
from distill.strategies import make_strategy
from distill.teaching.cache_identity import check_top_k

Worth = tuple[float, float]


def check_task(config: RunConfig, task: TaskName) -> None:
    """Checks that a run can be had where images have one label, or any number of them.

    Raises:
        UserError: A strategy, a score or an option that is for the other task.
    """
    strategy = config.strategy.name
    if task not in make_strategy(config.strategy).tasks:
        what = f"{strategy} is for images with one label, data.task is {task!r}"
        raise UserError(what, f"{config.name}.strategy.name", "use vanilla")
    chosen_score(config.train.select, task, f"{config.name}.train.select")
    check_top_k(config.cache.top_k, task)
    if config.cache.use and config.cache.top_k and make_strategy(config.strategy).needs_all_logits:
        what = f"{strategy} compares all logits, got {config.cache.top_k}"
        raise UserError(what, f"{config.name}.cache.top_k", "leave it at 0, which keeps all")


def check_classes(config: RunConfig, count: int, where: str) -> None:
    """Checks that a run can be had with so many classes.

    Raises:
        UserError: Too few for its strategy or for `cache.top_k`.
    """
    strategy = make_strategy(config.strategy)
    if count < strategy.min_classes:
        what = f"{config.strategy.name} needs {strategy.min_classes}, here are {count} classes"
        raise UserError(what, f"{where}.strategy.name", "use vanilla")
    if strategy.taught_by != "nobody" and config.cache.use and config.cache.top_k >= count:
        what = f"got {config.cache.top_k}, here are {count} classes"
        raise UserError(what, f"{where}.cache.top_k", "use fewer, or 0 for all")


def chosen_score(select: str, task: TaskName, where: str = "train.select") -> str:
    """The score by which `best` is chosen: one of the task's, or `loss`.

    Raises:
        UserError: The task has no such score.
    """
    if select == "auto":
        return task_of(task).main_score
    if select != "loss" and select not in task_of(task).scores:
        what = f"data.task={task!r} has no {select}"
        raise UserError(what, where, f"choose auto, loss, {', '.join(task_of(task).scores)}")
    return select


def validation_row(scores: Mapping[str, Any], task: TaskName) -> dict[str, float]:
    """What a row of `metrics.jsonl` says of the validation split.

    Raises:
        UserError: A score cannot be had, as no image of the split has a label.
    """
    absent = [name for name in task_of(task).scores if name not in scores]
    if absent:
        what = f"no image has a label, so there is no {absent[0]}"
        raise UserError(what, "the validation split", "add some, or split by another seed")
    row = {f"val/{name}": scores[name] for name in task_of(task).scores}
    return {**row, "val/loss": scores["nll"]}


def validate(classifier: Classifier, data: ImageData, device: torch.device) -> dict[str, float]:
    """What a row of `metrics.jsonl` says of a network on the validation split.

    Raises:
        UserError: A score cannot be had, as no image of the split has a label.
    """
    probs = task_of(data.task).probabilities(predict_logits(classifier, data.val, device))
    return validation_row(score(probs, data.val.labels, data.classes), data.task)


def worth(row: Mapping[str, float], select: str, task: TaskName) -> Worth:
    """How good an epoch is by its row: its score and, of equals, the lower loss; higher is better.

    Of few images many epochs score alike, and the first of them has learned least.
    """
    name, loss = chosen_score(select, task), -row["val/loss"]
    return (loss if name == "loss" else row[f"val/{name}"], loss)
