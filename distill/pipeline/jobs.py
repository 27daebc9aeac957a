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
from distill.files import differing_keys, is_complete, read_json, remove_folder, write_bytes
from distill.models.classifier import Classifier, build_classifier
from distill.models.inference import predict_logits
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import taught_by
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of
from distill.strategies import make_strategy
from distill.training.job import Job
from distill.training.resume import stored_state
from distill.training.run_directory import BEST, CONFIG, load_weights
from distill.training.tracking import Tracking
from distill.training.world import World

MOVED = {"distill.qad": "distill.pipeline.int8_training"}  # modules that stored runs name


def stale_error(stale: dict[str, list[str]], where: Path) -> UserError:
    """Names the runs that a changed recipe invalidates, and the options that changed."""
    runs = "; ".join(f"{name} ({', '.join(keys[:4])})" for name, keys in stale.items())
    hint = "`distill run` with --overwrite trains them again; or choose another --out"
    return UserError(f"made with other options: {runs}", str(where), hint)


def make_job(experiment: Experiment, config: RunConfig, with_inputs: bool = True) -> Job:
    """A run's options and the hashes of what it depends on; its teachers are not loaded yet."""
    inputs = {}
    if with_inputs:
        names = taught_by(experiment, config)
        inputs = {
            "teachers": {name: experiment.finished(name).weights_sha256 for name in names},
            "start": config.start and experiment.finished(config.start).weights_sha256,
        }
    recipe, extra = experiment.recipe, experiment.extra
    taught = config.unlabelled and make_strategy(config.strategy).taught_by != "nobody"
    return Job(
        config,
        experiment.data,
        recipe.views,
        recipe.seed_of(config),
        experiment.folder(config.name),
        inputs=inputs,
        cache=experiment.out / "cache",
        unlabelled=extra[0] if taught and extra else None,
        tracking=Tracking(recipe.track, experiment.out),
    )


def prepare_run(experiment: Experiment, config: RunConfig) -> tuple[Classifier, Job]:
    """The model where its training starts, and the job with its teachers loaded and checked."""
    job = load_job(experiment, config)
    torch.manual_seed(experiment.recipe.seed_of(config))
    loads = config.start is None and stored_state(job.folder) is None
    data = job.data
    classifier = build_classifier(config.model, data.classes, data.spec, loads, data.task)
    if config.start:
        load_weights(classifier, experiment.folder(config.start) / BEST)
    return classifier, job


def load_job(experiment: Experiment, config: RunConfig) -> Job:
    """A run's job with its teachers loaded and checked."""
    names = taught_by(experiment, config)
    teachers = [load_teacher(experiment, name) for name in names]
    adjustments = [experiment.finished(name).logit_adjustment for name in names]
    job = make_job(experiment, config)
    return replace(job, teachers=teachers, teacher_adjustments=adjustments)


def is_done(job: Job, overwrite: bool, world: World) -> bool:
    """Whether a run of exactly these options is complete; makes room for it otherwise.

    Raises:
        UserError: There is one of other options, and `overwrite` is off.
    """
    changed = changed_options(job)
    if changed and not overwrite:
        raise stale_error({job.config.name: changed}, job.folder)
    world.wait()  # until every process has looked
    if changed and world.is_main:
        tests = {file: file.read_bytes() for file in job.folder.glob("lr_find.*")}
        remove_folder(job.folder)
        for file, content in tests.items():  # the rate that they found may be all that changed
            write_bytes(file, content)
    return world.from_main(is_complete(job.folder))


def changed_options(job: Job) -> list[str]:
    """Dotted keys in which a run's directory differs from a job; the data may have moved.

    Runs of versions that kept no hash of the splits are taken for runs of these.
    """
    config = job.folder / CONFIG
    if not config.is_file():
        return []
    described, stored = json.loads(json.dumps(job.describe())), read_json(config)
    unknown = {"splits_sha256"} - stored.get("inputs", {}).keys()
    passed = {"data.location", *(f"inputs.{key}" for key in unknown)}
    changed = differing_keys(with_defaults(stored), described)
    return [key for key in changed if key not in passed]


def with_defaults(described: dict[str, Any]) -> dict[str, Any]:
    """A stored `config.json` as today's options would write it.

    Options that came to be since have their defaults, and a module that moved its new name.
    """
    models: dict[str, type[Options]] = {"run": RunConfig, "views": ViewsConfig}
    filled = dict(described)
    for key, model in models.items():
        with contextlib.suppress(ValidationError, KeyError):
            read = model.model_validate_json(json.dumps(described[key]))
            filled[key] = read.model_dump(mode="json")
    model_name = filled.get("run", {}).get("model", {}).get("name")
    if model_name in MOVED:
        filled["run"]["model"]["name"] = MOVED[model_name]
    return filled


def load_teacher(experiment: Experiment, name: str) -> Classifier:
    """A teacher that knows our classes and scores on our validation images as it did.

    A teacher whose classes or normalisation got mixed up teaches nonsense without an error
    anywhere, so this is asked once in a process, before it teaches.

    Raises:
        UserError: It does not, by more than what other kernels may do to a few images.
    """
    data, finished = experiment.data, experiment.finished(name)
    contract, where = finished.contract, str(finished.folder)
    if contract.names != data.classes:
        what = f"its classes {contract.names} are not the data's {data.classes}"
        raise UserError(what, where, "train the teacher on this data")
    if contract.task != data.task:
        what = f"its task is {contract.task!r}, that of the data is {data.task!r}"
        raise UserError(what, where, "train the teacher on this data")
    if finished.weights_sha256 not in experiment.checked:
        device = experiment.device
        logits = predict_logits(finished.load().to(device), data.val, device)
        scores = score(task_of(data.task).probabilities(logits), data.val.labels, data.classes)
        now, before = scores[task_of(data.task).main_score], finished.best_score
        if abs(now - before) > tolerance(len(data.val.labels)):
            what = f"the teacher scores {now:.2f} % on validation, but {before:.2f} % when trained"
            raise UserError(what, where, "its files or the data changed: train it again")
        experiment.checked.add(finished.weights_sha256)
    return finished.load()


def tolerance(count: int) -> float:
    """Points by which a teacher may miss its recorded score on `count` validation images.

    Other kernels turn close answers round: two images may change sides, however few there are.
    """
    return max(1.0, 100.0 * 2 / count)
