"""The stages of an experiment directory: each reads what earlier ones wrote, and skips the done."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from distill import run
from distill.config import ModelConfig, Recipe, RunConfig, StrategyConfig
from distill.data.prepare import ImageData, prepare_data
from distill.errors import UserError
from distill.metrics import score, softmax
from distill.models import Classifier, Contract, build_classifier, model_options
from distill.progress import Progress
from distill.recipe import write_toml
from distill.strategies import make_strategy
from distill.train import Job, fit, load_weights, predict_logits

Role = Literal["teachers", "students"]
TEACHER_TOLERANCE = 1.0  # points by which a loaded teacher may miss its recorded validation score


@dataclass(frozen=True)
class Experiment:
    """A recipe, a data source and the directory that everything goes to."""

    recipe: Recipe
    location: str
    out: Path
    device: torch.device
    workers: int = 2
    overwrite: bool = False
    smoke: bool = False
    progress: Progress = field(default_factory=Progress)

    @cached_property
    def data(self) -> ImageData:
        """The decoded data; checking it is the first stage."""
        recipe = self.recipe
        data = prepare_data(
            self.location,
            recipe.data,
            recipe.views,
            recipe.seed,
            self.out / "cache",
            self.workers,
            self.progress,
            self.smoke,
        )
        run.write_json(self.out / "data.json", data.describe())
        return data

    def folder(self, name: str) -> Path:
        """The run directory of a teacher or student."""
        is_teacher = name in {teacher.name for teacher in self.recipe.teachers}
        return self.out / ("teachers" if is_teacher else "students") / name


def check_plugins(recipe: Recipe) -> None:
    """Checks every name and option that plug-ins declare, before anything starts.

    Raises:
        UserError: An unknown plug-in, or an option that it does not have.
    """
    for config in (*recipe.teachers, *recipe.students):
        strategy = make_strategy(config.strategy)
        model_options(config.model)
        named = config.teachers != ("best",)
        if strategy.taught_by == "teachers" and not named and not recipe.teachers:
            where = f"students.{config.name}.teachers"
            raise UserError("nobody to teach it: the recipe has no teachers", where, "add one")


def write_recipe(experiment: Experiment) -> None:
    """Keeps the complete recipe beside its results."""
    with run.atomic(experiment.out / "recipe.toml") as temporary:
        temporary.write_text(write_toml(experiment.recipe), "utf-8")


def train_teachers(experiment: Experiment) -> None:
    """Trains every teacher of the recipe that is not trained yet."""
    for config in experiment.recipe.teachers:
        train_run(experiment, config)


def train_students(experiment: Experiment) -> None:
    """Trains every student in the recipe's order, self-teachers before those they teach."""
    for config in experiment.recipe.students:
        if make_strategy(config.strategy).taught_by == "self" and config.teachers == ("best",):
            train_run(experiment, self_teacher(config))
        train_run(experiment, config)


def self_teacher(config: RunConfig) -> RunConfig:
    """The supervised run of a student that is then taught by it."""
    supervised = StrategyConfig(name="supervised")
    return config.model_copy(update={"name": f"{config.name}-self", "strategy": supervised})


def all_runs(recipe: Recipe) -> list[RunConfig]:
    """Every run of a recipe in order, self-teachers included."""
    runs = list(recipe.teachers)
    for config in recipe.students:
        if make_strategy(config.strategy).taught_by == "self" and config.teachers == ("best",):
            runs.append(self_teacher(config))
        runs.append(config)
    return runs


def train_run(experiment: Experiment, config: RunConfig) -> None:
    """Trains one model into its run directory, unless that is complete and of the same options.

    Raises:
        UserError: The directory holds a run of other options, and `overwrite` is off.
    """
    folder = experiment.folder(config.name)
    teacher_names = taught_by(experiment, config)
    inputs = {
        "teachers": {name: _weights_hash(experiment, name) for name in teacher_names},
        "start": config.start and _weights_hash(experiment, config.start),
    }
    teachers: list[Classifier] = []
    job = Job(config, experiment.data, experiment.recipe.views, experiment.recipe.seed, folder)
    job = Job(**{**vars(job), "inputs": inputs})
    if is_done(folder, job, experiment.overwrite):
        experiment.progress.say(f"{config.name}: done before, kept")
        return
    resumes = (folder / "last").is_dir()
    torch.manual_seed(experiment.recipe.seed)
    loads = not resumes and config.start is None
    classifier = build_classifier(config.model, job.data.classes, job.data.spec, load=loads)
    if config.start and not resumes:
        load_weights(classifier, experiment.folder(config.start) / "best.safetensors")
    teachers = [load_teacher(experiment, name) for name in teacher_names]
    job = Job(**{**vars(job), "teachers": teachers})
    engine = fit
    if config.engine == "kd_lib":
        from distill.kd_lib import fit_with_kd_lib as engine
    engine(classifier, job, experiment.device, experiment.progress)


def taught_by(experiment: Experiment, config: RunConfig) -> tuple[str, ...]:
    """Names of the runs that teach this one."""
    kind = make_strategy(config.strategy).taught_by
    if kind == "nobody":
        return ()
    if kind == "self" and config.teachers == ("best",):
        return (self_teacher(config).name,)
    names = [
        best_run(experiment, [t.name for t in experiment.recipe.teachers]) if n == "best" else n
        for n in config.teachers
    ]
    return tuple(dict.fromkeys(names))


def best_run(experiment: Experiment, names: list[str]) -> str:
    """The run of highest validation accuracy, the first of equals."""
    return max(names, key=lambda name: best_validation(experiment.folder(name)))


def best_validation(folder: Path) -> float:
    """Validation top-1 of the kept epoch of a complete run, in percent."""
    if not run.is_complete(folder):
        stage = folder.parent.name.removesuffix("s")
        raise UserError("this run is not finished", str(folder), f"run `distill {stage}` first")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    select = run.read_json(folder / "config.json")["run"]["train"]["select"]
    key, sign = ("val/loss", -1) if select == "loss" else (f"val/{select}", 1)
    return float(max(rows, key=lambda row: sign * row[key])["val/top1"])


def _weights_hash(experiment: Experiment, name: str) -> str:
    folder = experiment.folder(name)
    best_validation(folder)  # says which command is missing
    return str(run.read_json(folder / run.MANIFEST)["best.safetensors"])


def is_done(folder: Path, job: Job, overwrite: bool) -> bool:
    """Whether a run of exactly these options is complete; makes room for it otherwise."""
    config = folder / "config.json"
    if not config.is_file():
        return False
    described = json.loads(json.dumps(job.describe()))
    changed = run.differing_keys(run.read_json(config), described)
    if changed and not overwrite:
        raise UserError(
            f"made with other options ({', '.join(changed[:4])})",
            str(folder),
            "repeat with --overwrite to train it again, or choose another --out",
        )
    if changed:
        run.remove(folder)
    return run.is_complete(folder)


def load_run(folder: Path) -> Classifier:
    """The model that a run directory keeps, in evaluation mode.

    Raises:
        UserError: The run is not complete, or a file of it was changed.
    """
    if not run.is_complete(folder):
        raise UserError("not a finished run directory", str(folder), "it has no manifest.json")
    run.verify_manifest(folder)
    model = ModelConfig.model_validate_json(
        json.dumps(run.read_json(folder / "config.json")["run"]["model"])
    )
    contract = Contract.model_validate(run.read_json(folder / "contract.json"))
    classifier = build_classifier(model, contract.names, contract.input_spec, load=False)
    return load_weights(classifier, folder / "best.safetensors").eval()


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
    probs = softmax(predict_logits(classifier.to(experiment.device), data.val, experiment.device))
    now, before = score(probs, data.val.labels, data.classes)["top1"], best_validation(folder)
    if abs(now - before) > TEACHER_TOLERANCE:
        what = f"the teacher scores {now:.2f} % on validation, but {before:.2f} % when trained"
        raise UserError(what, str(folder), "its files or the data changed: train it again")
    return classifier


def describe_run(folder: Path) -> dict[str, Any]:
    """`config.json` of a run."""
    found: dict[str, Any] = run.read_json(folder / "config.json")
    return found
