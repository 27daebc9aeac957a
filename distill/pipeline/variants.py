"""Students that differ from a recipe's in a few options, and how they answer on validation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import RunConfig
from distill.models.deployed import frozen
from distill.models.inference import predict_logits
from distill.overrides import set_option
from distill.pipeline.experiment import Experiment
from distill.recipe import check_table
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of
from distill.strategies import make_strategy

LONGEST = 90  # characters of a name, which is that of a folder; a seed may be added


def variant_name(base: RunConfig, *words: str) -> str:
    """The name of a variant: the student's, and what differs; cut where it is long."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([base.name, *words])).rstrip("-")
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST - len(digest) - 1]}-{digest}"


def changed_run(base: RunConfig, settings: Sequence[str], name: str) -> RunConfig:
    """A student with other options.

    Args:
        settings: `key=value` of the student, values as TOML.

    Raises:
        UserError: There is no such option, or the value does not fit.
    """
    entry = json.loads(base.model_dump_json(exclude_none=True))
    for setting in settings:
        set_option({"students": [entry]}, f"student.{setting}")
    entry["name"] = name
    changed = check_table(RunConfig, entry, "student")
    make_strategy(changed.strategy)
    return changed


def effect_of(run: RunConfig) -> dict[str, Any]:
    """What a run comes to, whatever it is called: options of its strategy that are not said too."""
    cache = (run.cached_views, run.cache.top_k) if run.cache.use else ()
    strategy = (run.strategy.name, make_strategy(run.strategy).model_dump())
    return {**run.model_dump(), "name": "", "cache": cache, "strategy": strategy}


def names_by_seed(experiment: Experiment, name: str, seeds: int) -> list[str]:
    """Names of a student's runs, one for each seed, as `runs.students_by_seed` gives them."""
    first = experiment.recipe.seed
    return [name, *(f"{name}-seed{first + further}" for further in range(1, seeds))]


def answers_by_seed(
    experiment: Experiment, name: str, seeds: int
) -> tuple[NDArray[Any], list[float]]:
    """Of each seed's run which validation images are right, `(seeds, n)`, and its main score."""
    data, task = experiment.data, task_of(experiment.data.task)
    truth = task.truth(data.val.labels, len(data.classes))
    rights, scores = [], []
    for run in names_by_seed(experiment, name, seeds):
        classifier = frozen(experiment.finished(run).load(), experiment.device)
        probs = task.probabilities(predict_logits(classifier, data.val, experiment.device))
        rights.append(task.parts(probs, truth))
        scores.append(float(score(probs, data.val.labels, data.classes)[task.main_score]))
    return np.stack(rights), scores
