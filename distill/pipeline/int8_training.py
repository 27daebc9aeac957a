"""Quantisation-aware distillation: the last step of the int8 file, as a run of the one loop.

The student goes on from its best weights, its weights and activations rounded as the file rounds
them, and its teachers' answers are all that it is told. Where nobody taught it, it teaches itself:
in float.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import NoReturn

import onnx

from distill.config import ModelConfig, RunConfig, StrategyConfig
from distill.config import Options as BaseOptions
from distill.data.views.images import num_batches
from distill.errors import UserError
from distill.export.int8.fake_quant import FakeQuantised
from distill.export.int8.quantiser import Distil
from distill.files import amend_manifest
from distill.models.classifier import Classifier, Contract
from distill.pipeline.experiment import Experiment
from distill.pipeline.jobs import is_done, load_job, make_job
from distill.pipeline.runs import all_runs, student_runs, taught_by
from distill.strategies import make_strategy
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.run_directory import BEST, load_weights
from distill.training.world import World

MOVING = 0.5  # share of the batches in which ranges still move


class Options(BaseOptions):
    """What a recipe may set."""

    student: str
    """Name of the run that it is made of."""


def build(
    variant: str, num_classes: int, size: int, pretrained: bool, options: Options
) -> NoReturn:
    """Such a network comes from an exported file, not from a name.

    Raises:
        UserError: Always.
    """
    what = f"this run only serves the int8 file of {options.student!r}"
    raise UserError(what, "model.name", "take export/student.int8.onnx instead")


def int8_distillation(experiment: Experiment, student: str, temperature: float) -> Distil | None:
    """How the int8 file's student is trained; None where the recipe has that off."""
    if experiment.recipe.export.int8_qad_epochs == 0:
        return None
    return partial(distil_quantised, experiment, student, temperature)


def distil_quantised(
    experiment: Experiment,
    student: str,
    temperature: float,
    quantised: onnx.ModelProto,
    source: onnx.ModelProto,
) -> tuple[onnx.ModelProto, dict[str, tuple[float, float]]]:
    """Trains what is behind a quantised file in a run directory of its own, or continues there.

    Args:
        temperature: That these divide logits by.
        quantised, source: The student's file with Q/DQ nodes, and the float one it was made from.

    Returns:
        The float model with other weights, and the lowest and highest value of each activation.

    Raises:
        UserError: Another student has the name of this run.
        RunStopped: The loss stopped being finite.
    """
    config = qad_config(experiment, student)
    if config.name in {run.name for run in all_runs(experiment.recipe)}:
        raise UserError(f"{config.name!r} is a run of the recipe", "students", "rename that")
    job = make_job(experiment, config)
    start = hashlib.sha256(quantised.graph.SerializeToString()).hexdigest()
    job = replace(job, inputs={**(job.inputs or {}), "graph_sha256": start})
    network = FakeQuantised(quantised, source, moving_batches(job), temperature)
    classifier = Classifier(network, contract_of(job))
    if is_done(job, overwrite=True, world=World(experiment.device)):
        experiment.progress.say(f"{config.name}: done before, kept")
    else:
        plan = f"{config.train.epochs} epochs of {config.name}"
        experiment.progress.say(f"export: no calibration passes, so now {plan}")
        job = replace(load_job(experiment, config), inputs=job.inputs)
        fit(classifier, job, experiment.device, experiment.progress, alone=True)
        amend_manifest(experiment.out, job.folder)
    load_weights(classifier, job.folder / BEST)
    return network.written_into(source), network.ends()


def qad_config(experiment: Experiment, student: str) -> RunConfig:
    """The run of a student's int8 file: the student's options, but for what fine-tuning needs."""
    options = experiment.recipe.export
    config = next(run for run in student_runs(experiment.recipe) if run.name == student)
    temperature = getattr(make_strategy(config.strategy), "temperature", 1.0)
    strategy = {"name": "vanilla", "temperature": temperature, "kd_weight": 1.0}
    train = {
        "epochs": options.int8_qad_epochs,
        "lr": options.int8_qad_lr,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup_epochs": 0.0,
        "ema_decay": 0.0,
        "precision": "fp32",  # halves are not rounded to steps of 1/255
        "compile": False,
        "patience": 0,
    }
    return RunConfig(
        name=int8_run(student),
        model=ModelConfig(name=__name__, options={"student": student}),
        strategy=StrategyConfig.model_validate(strategy),
        train=config.train.model_copy(update=train),
        cache=config.cache,
        start=student,
        seed=config.seed,
        unlabelled=config.unlabelled,
        teachers=taught_by(experiment, config) or (student,),
    )


def int8_run(student: str) -> str:
    """Name of the run of a student's int8 file."""
    return f"{student}-int8"


def moving_batches(job: Job) -> int:
    """After how many batches the ranges stay: of one process, as the export stage has only one."""
    train = job.config.train
    return int(MOVING * train.epochs * num_batches(len(job.images), train.batch_size, 1))


def contract_of(job: Job) -> Contract:
    """Images in [0, 1] of the data's size; normalisation, and resizing if need be, are inside."""
    data = job.data
    return Contract(
        input_spec=data.spec,
        input_size=data.spec.height,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        names=data.classes,
        task=data.task,
    )
