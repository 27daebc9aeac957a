"""From a run of a recipe to a job: its inputs, its teachers, and whether it is done already."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from distill.config import Options, RunConfig, ViewsConfig
from distill.errors import UserError
from distill.files import MANIFEST, differing_keys, is_complete, read_json, remove_folder
from distill.models.classifier import Classifier, build_classifier
from distill.models.inference import predict_logits
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import taught_by
from distill.scoring.metrics import main_score, probabilities, score
from distill.strategies import make_strategy
from distill.training.job import Job
from distill.training.run_directory import best_validation, load_run, load_weights, logit_adjustment

TEACHER_TOLERANCE = 1.0  # points by which a loaded teacher may miss its recorded validation score


def stale_error(stale: dict[str, list[str]], where: Path) -> UserError:
    """Names the runs that a changed recipe invalidates, and the options that changed."""
    runs = "; ".join(f"{name} ({', '.join(keys[:4])})" for name, keys in stale.items())
    hint = "repeat with --overwrite to train them again, or choose another --out"
    return UserError(f"made with other options: {runs}", str(where), hint)


def make_job(experiment: Experiment, config: RunConfig, with_inputs: bool = True) -> Job:
    """A run's options and the hashes of what it depends on; its teachers are not loaded yet."""
    inputs = {}
    if with_inputs:
        names = taught_by(experiment, config)
        inputs = {
            "teachers": {name: _weights_hash(experiment, name) for name in names},
            "start": config.start and _weights_hash(experiment, config.start),
        }
    recipe, taught = experiment.recipe, make_strategy(config.strategy).taught_by != "nobody"
    return Job(
        config,
        experiment.data,
        recipe.views,
        recipe.seed,
        experiment.folder(config.name),
        inputs=inputs,
        cache=experiment.out / "cache",
        unlabelled=experiment.extra[0] if taught and experiment.extra else None,
    )


def prepare_run(experiment: Experiment, config: RunConfig) -> tuple[Classifier, Job]:
    """The model where its training starts, and the job with its teachers loaded and checked."""
    job = load_job(experiment, config)
    torch.manual_seed(experiment.recipe.seed)
    loads = config.start is None and not (job.folder / "last").is_dir()
    data = job.data
    classifier = build_classifier(config.model, data.classes, data.spec, loads, data.task)
    if config.start:
        load_weights(classifier, experiment.folder(config.start) / "best.safetensors")
    return classifier, job


def load_job(experiment: Experiment, config: RunConfig) -> Job:
    """A run's job with its teachers loaded and checked."""
    names = taught_by(experiment, config)
    teachers = [load_teacher(experiment, name) for name in names]
    adjustments = [logit_adjustment(experiment.folder(name)) for name in names]
    job = make_job(experiment, config)
    return replace(job, teachers=teachers, teacher_adjustments=adjustments)


def _weights_hash(experiment: Experiment, name: str) -> str:
    folder = experiment.folder(name)
    best_validation(folder)  # says which command is missing
    return str(read_json(folder / MANIFEST)["best.safetensors"])


def is_done(job: Job, overwrite: bool) -> bool:
    """Whether a run of exactly these options is complete; makes room for it otherwise."""
    changed = changed_options(job)
    if changed and not overwrite:
        raise stale_error({job.config.name: changed}, job.folder)
    if changed:
        remove_folder(job.folder)
    return is_complete(job.folder)


def changed_options(job: Job) -> list[str]:
    """Dotted keys in which a run's directory differs from a job; the data may have moved."""
    config = job.folder / "config.json"
    if not config.is_file():
        return []
    described = json.loads(json.dumps(job.describe()))
    changed = differing_keys(with_defaults(read_json(config)), described)
    return [key for key in changed if key != "data.location"]


def with_defaults(described: dict[str, Any]) -> dict[str, Any]:
    """A stored `config.json` with the defaults of options that came to be after it was written."""
    models: dict[str, type[Options]] = {"run": RunConfig, "views": ViewsConfig}
    filled = dict(described)
    for key, model in models.items():
        with contextlib.suppress(ValidationError, KeyError):
            read = model.model_validate_json(json.dumps(described[key]))
            filled[key] = read.model_dump(mode="json")
    return filled


def load_teacher(experiment: Experiment, name: str) -> Classifier:
    """A teacher that knows our classes and scores on our validation images as it did.

    A teacher whose classes or normalisation got mixed up teaches nonsense without an error
    anywhere, so this is asked before every distillation.
    """
    folder, data = experiment.folder(name), experiment.data
    classifier = load_run(folder)
    if classifier.contract.names != data.classes:
        what = f"its classes {classifier.contract.names} are not the data's {data.classes}"
        raise UserError(what, str(folder), "train the teacher on this data")
    if classifier.contract.task != data.task:
        what = f"its task is {classifier.contract.task!r}, that of the data is {data.task!r}"
        raise UserError(what, str(folder), "train the teacher on this data")
    logits = predict_logits(classifier.to(experiment.device), data.val, experiment.device)
    scores = score(probabilities(logits, data.task), data.val.labels, data.classes)
    now, before = scores[main_score(data.task)], best_validation(folder)
    if abs(now - before) > TEACHER_TOLERANCE:
        what = f"the teacher scores {now:.2f} % on validation, but {before:.2f} % when trained"
        raise UserError(what, str(folder), "its files or the data changed: train it again")
    return classifier
