"""The stages that train: each reads what earlier ones wrote, and skips what is done."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from distill.config import RunConfig
from distill.errors import RunStopped
from distill.files import amend_manifest, is_complete
from distill.lock import lock
from distill.mirror import mirror_of, publish
from distill.pipeline.experiment import Experiment, write_description
from distill.pipeline.jobs import changed_options, is_done, make_job, prepare_run, stale_error
from distill.pipeline.runs import all_runs, pairs, student_runs, taught_by
from distill.teaching.claims import Claims
from distill.training.fit import fit
from distill.training.world import join

PUBLISH_S = 30.0  # between two times that a run in progress is put where it is kept
LATER = ("inputs.teachers", "inputs.start")  # known only when a run's turn comes


def begin(experiment: Experiment) -> None:
    """Describes the experiment in its directory, unless that holds runs of another one.

    Raises:
        UserError: Runs were made with other options, and `overwrite` is off; nothing is written.
    """
    world = join(experiment.device)
    if not experiment.overwrite:
        stale = {}
        for config in all_runs(experiment.recipe):
            job = make_job(experiment, config, with_inputs=False)
            keys = [key for key in changed_options(job) if key not in LATER]
            if keys:
                stale[config.name] = keys
        if stale:
            raise stale_error(stale, experiment.out)
    world.wait()  # until every process has looked
    if world.is_main:
        write_description(experiment)


def train_teachers(experiment: Experiment) -> None:
    """Trains every teacher of the recipe that is not trained yet."""
    for config in experiment.recipe.teachers:
        train_run(experiment, config)


def train_students(experiment: Experiment) -> None:
    """Trains every student in the recipe's order, self-teachers before those they teach."""
    learners = {
        control: name for runs in pairs(experiment.recipe).values() for name, control in runs
    }
    for config in student_runs(experiment.recipe):
        train_run(experiment, config)
        if (student := learners.get(config.name)) and config.seed is None:
            warn_of_teachers(experiment, config, student)


def warn_of_teachers(experiment: Experiment, alone: RunConfig, student: str) -> None:
    """Says that a student's teachers are no better than it is by itself, before they teach it."""
    config = next(run for run in student_runs(experiment.recipe) if run.name == student)
    score = experiment.finished(alone.name).best_score
    known = [name for name in taught_by(experiment, config) if is_complete(experiment.folder(name))]
    scores = {name: experiment.finished(name).best_score for name in known}
    if scores and max(scores.values()) <= score:
        listed = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
        what = f"{alone.name} has {score:.2f} % on validation, those who teach {student}: {listed}"
        hint = "a teacher that is no better has little to teach: train a larger one"
        experiment.progress.say(f"WARNING: {what}. Fix: {hint}.")


def train_run(
    experiment: Experiment,
    config: RunConfig,
    after_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Trains one model into its run directory, unless that is complete and of the same options.

    The processes of one launcher train it together; two commands that are asked for the same run
    train it once.

    Args:
        after_epoch: As of `fit`; KD_Lib's loops have none.

    Raises:
        UserError: The directory holds a run of other options, and `overwrite` is off.
    """
    world = join(experiment.device)
    with _alone(experiment, config) if world.size == 1 else contextlib.nullcontext():
        if is_done(make_job(experiment, config), experiment.overwrite, world):
            experiment.progress.say(f"{config.name}: done before, kept")
            return
        classifier, job = prepare_run(experiment, config)
        if config.engine == "kd_lib":
            from distill.training.kd_lib import fit_with_kd_lib

            fit_with_kd_lib(classifier, job, experiment.device, experiment.progress)
        else:
            published = time.monotonic()

            def told(row: Mapping[str, Any]) -> None:
                nonlocal published
                if world.is_main and time.monotonic() - published > PUBLISH_S:
                    try:
                        publish(job.folder)
                    except RunStopped as error:  # which may pass while the run goes on
                        experiment.progress.say(f"warning: this epoch is kept here alone: {error}")
                    published = time.monotonic()
                if after_epoch is not None:
                    after_epoch(row)

            fit(classifier, job, experiment.device, experiment.progress, after_epoch=told)
        if world.is_main:
            amend_manifest(experiment.out, job.folder)
            publish(experiment.out)


@contextlib.contextmanager
def _alone(experiment: Experiment, config: RunConfig) -> Iterator[None]:
    """Waits for another command that trains the same run, here or on another machine."""
    folder = experiment.folder(config.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mirror = mirror_of(folder)

    def told() -> None:
        which = "process" if mirror is None else "machine"
        line = f"{config.name}: another {which} trains it, waiting for that one to end"
        experiment.progress.say(line)

    if mirror is None:
        with lock(folder.with_name(f"{config.name}.lock"), True, told):
            yield
        return
    claims = Claims(mirror.bucket.below("cache/claims"))
    for attempt in itertools.count():
        with claims.held(f"run-{config.name}") as is_ours:
            if is_ours:
                if attempt:
                    mirror.pull()
                yield
                return
        if not attempt:
            told()
        claims.wait()
