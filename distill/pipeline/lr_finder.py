"""The learning-rate range test: loss against a rate that grows until training falls apart.

Smith, 2015, arXiv:1506.01186, section 3.3, with the exponential growth that fastai made usual. It
takes the very steps of training (views, teachers, strategy), then throws the weights away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from distill.config import RunConfig
from distill.data.views.images import Batch
from distill.files import differing_keys, read_json, write_json
from distill.pipeline.experiment import Experiment
from distill.pipeline.jobs import prepare_run
from distill.report import plots
from distill.training.accumulation import Part
from distill.training.optim import set_lr
from distill.training.teachers import live_teachers
from distill.training.trainer import Trainer
from distill.training.world import World

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTHING = 0.9  # share of the running loss kept at each step
FILE = "lr_find.json"
FREE = ("train.lr", "train.epochs", "train.patience")  # options that a test does not depend on
BLOWN_UP = 4.0  # times the lowest smoothed loss at which the test stops


class RateTest(TypedDict):
    """`lr_find.json`.

    Attributes:
        run: Options of the run that was tested; absent in files of earlier versions.
    """

    suggested_lr: float
    lr: list[float]
    loss: list[float]
    run: NotRequired[dict[str, Any]]


def find_lr(experiment: Experiment, config: RunConfig) -> dict[str, Any]:
    """Tests one run; writes `lr_find.json` and `lr_find.png` into its directory.

    Returns:
        `suggested_lr`, where the smoothed loss falls fastest, and the `plot`'s path.
    """
    classifier, job = prepare_run(experiment, config)
    world = World(experiment.device)
    trainer = Trainer(classifier, job, world, live_teachers(job, world.device))
    trainer.begin_epoch(config.transfer.freeze_epochs)
    batches, count = _endless(trainer), trainer.accumulate
    rates, losses, smooth, lowest = [], [], 0.0, math.inf
    with experiment.progress.task(f"{config.name}: learning rates", STEPS, "steps") as bar:
        for step in range(STEPS):
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
            set_lr(trainer.optimizer, rate)
            loss = sum(
                float(trainer.step(next(batches), step, Part(number, count))["loss"]) / count
                for number in range(count)
            )
            smooth = SMOOTHING * smooth + (1.0 - SMOOTHING) * loss
            corrected = smooth / (1.0 - SMOOTHING ** (step + 1))
            if not math.isfinite(loss) or corrected > BLOWN_UP * lowest:
                break
            lowest = min(lowest, corrected)
            rates.append(rate)
            losses.append(corrected)
            bar.advance()
    suggested = suggest(rates, losses)
    plot = job.folder / "lr_find.png"
    record = {"suggested_lr": suggested, "lr": rates, "loss": losses, "plot": str(plot)}
    plots.save(plots.rates({config.name: record}), plot)
    write_json(job.folder / FILE, {**record, "run": config.model_dump(mode="json")})
    return record


def kept_test(folder: Path, config: RunConfig) -> tuple[RateTest, list[str]] | None:
    """The test that was made of a run, and the options that it has not any more; None for none.

    How far training goes, and what was tested, are no difference.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    test = read_json(file, RateTest)
    now = config.model_dump(mode="json")
    changed = differing_keys(test.get("run", now), now)
    return test, [key for key in changed if key not in FREE]


def suggest(rates: list[float], losses: list[float]) -> float:
    """The rate at which the loss falls fastest per factor of the rate, before its lowest point."""
    lowest = int(np.argmin(losses))
    if lowest < 2:
        return rates[0]
    slope = np.gradient(np.asarray(losses[: lowest + 1]), np.log(rates[: lowest + 1]))
    return float(rates[int(np.argmin(slope))])


def _endless(trainer: Trainer) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from trainer.batches(epoch)
