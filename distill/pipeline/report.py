"""`results.json`: a row per trained model, control and exported file, and what follows from them.

This is where the test split is read, once, after everything was chosen.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.config import Recipe, RunConfig
from distill.data.prepare import ImageData
from distill.data.store import spread
from distill.environment import environment
from distill.errors import UserError
from distill.export.model_card import experiment_card
from distill.files import read_json, seal, write_json, write_text
from distill.models.deployed import frozen
from distill.models.inference import predict_logits
from distill.pipeline.bench import exported_files, with_speeds
from distill.pipeline.clock import record
from distill.pipeline.elsewhere import with_elsewhere
from distill.pipeline.experiment import Experiment
from distill.pipeline.materials import materials
from distill.pipeline.page import write_report
from distill.pipeline.runs import all_runs, best_run, chosen_student, pairs
from distill.pipeline.stored import EXPORT, FinishedExport
from distill.pipeline.track import track_scores
from distill.pipeline.verdicts import CORRECT, PARTS, build_verdict, keep, verdicts
from distill.report.results import ResultRow, Results
from distill.report.warnings import cautions, fragile, one_group
from distill.runtime.predict import Predictor
from distill.scoring import haar
from distill.scoring.baselines import random_forest_probs
from distill.scoring.metrics import score
from distill.scoring.robustness import STRESSES, stressed
from distill.scoring.tasks import SINGLE, Task, task_of
from distill.training.run_directory import BEST

STRESSED = 2000  # test images that are put under stress, spread over the split


def score_experiment(
    experiment: Experiment, probs: dict[str, NDArray[Any]] | None = None
) -> Results:
    """Rows, verdict and environment of an experiment, but for what is timed.

    Args:
        probs: Gets what each row answers on the test split, `(images, classes)`, by its name.
    """
    probs = {} if probs is None else probs
    data, recipe, task = experiment.data, experiment.recipe, task_of(experiment.data.task)
    teachers = [config.name for config in recipe.teachers]
    reference = best_run(experiment, teachers) if teachers else None
    tuned: dict[str, NDArray[np.float32]] = {}
    rows: list[ResultRow] = []
    alone = {control for runs in pairs(recipe).values() for _, control in runs}
    for config in all_runs(recipe):
        run = experiment.finished(config.name)
        classifier, device = run.load(), experiment.device
        logits = predict_logits(frozen(classifier, device), data.test, device)
        probs[config.name] = task.probabilities(logits)
        rows.append(
            ResultRow(
                name=config.name,
                kind=_kind(config.name, teachers, alone),
                strategy=config.strategy.name,
                seed=recipe.seed_of(config),
                params=classifier.num_parameters,
                test=score(probs[config.name], data.test.labels, data.classes),
                size_bytes=(run.folder / BEST).stat().st_size,
            )
        )
    rows += _baseline_rows(data, recipe)
    rows += _onnx_rows(experiment, probs, tuned)
    if reference is not None:
        rows = [_with_agreement(row, probs, reference, task) for row in rows]
    truth = _truth(data)
    parts = {name: task.parts(probs[name], truth["test"]) for name in probs}
    right = {name: _right(task, truth["test"], probs[name], tuned.get(name)) for name in probs}
    for config in all_runs(recipe):
        name, folder = config.name, experiment.folder(config.name)
        keep(folder / CORRECT, _right(task, truth["test"], probs[name], None))
        if task is not SINGLE:
            keep(folder / PARTS, parts[name])
    found = verdicts(experiment, parts, reference)
    verdict = build_verdict(rows, reference, task.main_score, [v.to_json() for v in found])
    # Where labels are many, an answer is what reaches its threshold, and only files have these.
    judged = tuned if data.task == "multi" else probs
    answers = {name: task.answers(probs[name], tuned.get(name)) for name in judged}
    shipped = verdict.get("shipped")
    robustness = under_stress(experiment, shipped, probs)
    results = Results(
        rows=tuple(rows),
        warnings=(
            *cautions(rows, task, answers, truth, data.classes),
            *fragile(robustness, task.main_score),
            *one_group(data.groups_of("test").tolist()),
        ),
        verdict=verdict,
        env=environment(),
        robustness=robustness,
    )
    return with_elsewhere(experiment, results, probs, right)


def under_stress(
    experiment: Experiment, shipped: str | None, probs: Mapping[str, NDArray[Any]]
) -> dict[str, Any] | None:
    """What the shipped file scores on test images that went through something.

    Args:
        probs: What each row answers on the test split as it is, by its name.
    """
    if shipped is None:
        return None
    data, main = experiment.data, task_of(experiment.data.task).main_score
    predictor = Predictor(experiment.out / "export" / shipped)
    chosen = spread(data.test, STRESSED)
    pixels, labels = data.test.take(chosen), data.test.labels[chosen]

    def scored(answers: NDArray[Any]) -> float:
        return float(score(answers, labels, data.classes)[main])

    rows = []
    for stress in STRESSES:
        answers = run_on_pixels(predictor, stressed(pixels, stress))
        rows.append({"name": stress.name, "strength": stress.strength, main: scored(answers)})
    clean = scored(probs[shipped][chosen])
    return {"file": shipped, "n": len(chosen), main: clean, "rows": rows}


def _kind(
    name: str, teachers: Sequence[str], alone: Container[str]
) -> Literal["teacher", "student", "control"]:
    return "teacher" if name in teachers else "control" if name in alone else "student"


def _right(
    task: Task, truth: NDArray[np.bool_], probs: NDArray[Any], tuned: NDArray[Any] | None
) -> NDArray[np.bool_]:
    """Which answers are right: `(images,)`, or of each label `(images, labels)`."""
    return task.parts(probs, truth) if task is SINGLE else task.answers(probs, tuned) == truth


def _truth(data: ImageData) -> dict[str, NDArray[np.bool_]]:
    """Which labels the images of validation and test have, `(n, classes)`."""
    task, count = task_of(data.task), len(data.classes)
    return {name: task.truth(data.splits[name].labels, count) for name in ("val", "test")}


def _with_agreement(
    row: ResultRow, probs: dict[str, NDArray[Any]], reference: str, task: Task
) -> ResultRow:
    if row.name not in probs:
        return row
    agreement = task.agreement(probs[row.name], probs[reference])
    divergence = task.divergence(probs[reference], probs[row.name])
    return row.model_copy(update={task.agreement_key: agreement, "kl_teacher": divergence})


def _baseline_rows(data: ImageData, recipe: Recipe) -> Iterator[ResultRow]:
    """Classifiers without a network, as far as the recipe and the data have them."""

    def row(name: str, probs: NDArray[Any], seed: int | None = None) -> ResultRow:
        test = score(probs, data.test.labels, data.classes)
        return ResultRow(name=name, kind="control", seed=seed, test=test)

    if recipe.random_forest.trees:
        probs = random_forest_probs(data, recipe.random_forest, recipe.seed)
        yield row("random_forest", probs, recipe.seed)
    if haar.is_wanted(data, recipe.haar):
        yield row("haar_cascades", haar.haar_probs(data))


def _onnx_rows(
    experiment: Experiment,
    probs: dict[str, NDArray[Any]],
    tuned: dict[str, NDArray[np.float32]],
) -> list[ResultRow]:
    """Exported files, scored through the shipped runtime with the thresholds they carry.

    `probs` and `tuned` get what they answer on the test split, and their thresholds.

    Raises:
        UserError: They are of another student, or of this one before it was trained again.
    """
    data, rows = experiment.data, []
    for file in exported_files(experiment.out):
        export = read_json(file.parent / EXPORT, FinishedExport)
        config = _exported(experiment, export["identity"])
        predictor = Predictor(file)
        probs[file.name] = run_on_pixels(predictor, data.test.pixels)
        tuned[file.name] = predictor.thresholds
        rows.append(
            ResultRow(
                name=file.name,
                kind="onnx",
                strategy=export["strategy"],
                seed=experiment.recipe.seed_of(config),
                params=export["params"],
                size_bytes=file.stat().st_size,
                test=score(probs[file.name], data.test.labels, data.classes, predictor.tuned),
            )
        )
    return rows


def _exported(experiment: Experiment, identity: Mapping[str, Any]) -> RunConfig:
    """The student that files are of."""
    name = chosen_student(experiment)
    sha256 = experiment.finished(name).weights_sha256
    if (identity["student"], identity["weights_sha256"]) != (name, sha256):
        what = f"its files are not of {name} as it is now"
        hint = f"make them anew: distill export {experiment.out}"
        raise UserError(what, str(experiment.out / "export"), hint)
    return next(run for run in all_runs(experiment.recipe) if run.name == name)


def run_on_pixels(predictor: Predictor, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities of an ONNX file for decoded images, 64 at a time."""
    parts = [
        predictor.probs(np.ascontiguousarray(pixels[i : i + 64])) for i in range(0, len(pixels), 64)
    ]
    return np.concatenate(parts)


def report_experiment(
    experiment: Experiment, scored: Results, probs: Mapping[str, NDArray[Any]] | None = None
) -> Results:
    """Writes `results.json`, model card, page and the manifest of all; returns the results.

    Args:
        scored: What `score_experiment` found.
        probs: What it was found by, for the page; None writes none.
    """
    main = task_of(experiment.data.task).main_score
    results = with_speeds(scored, experiment.out, main)
    results = results.model_copy(update={"plan": record(experiment)})
    track_scores(experiment, results)
    write_json(experiment.out / "results.json", results.to_json())
    if "shipped" in results.verdict:
        predictor = Predictor(experiment.out / "export" / results.verdict["shipped"])
        made_of = materials(experiment, chosen_student(experiment))
        card = experiment_card(results, predictor.metadata, made_of)
        write_text(experiment.out / "README.md", card)
    if probs is not None:
        write_report(experiment, results, probs)
    seal(experiment.out)
    return results
