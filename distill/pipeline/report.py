"""`results.json`: a row per trained model, control and exported file, and what follows from them.

This is where the test split is read, once, after everything was chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.environment import environment
from distill.files import files_below, read_json, write_json, write_manifest
from distill.models.inference import predict_logits
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import all_runs, best_run
from distill.runtime.predict import Predictor
from distill.scoring.baselines import random_forest_probs
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of

Row = dict[str, Any]
LATENCY = ("latency_p50_ms", "latency_p99_ms", "images_per_s", "batch_size")


def build_results(experiment: Experiment) -> dict[str, Any]:
    """Rows, verdict and environment of a finished experiment."""
    data = experiment.data
    speeds = _speeds(experiment.out / "bench.json")
    teacher_names = [config.name for config in experiment.recipe.teachers]
    reference = best_run(experiment, teacher_names) if teacher_names else None
    probs: dict[str, NDArray[Any]] = {}
    rows: list[Row] = []
    for config in all_runs(experiment.recipe):
        folder = experiment.folder(config.name)
        classifier = experiment.finished(config.name).classifier.to(experiment.device)
        logits = predict_logits(classifier, data.test, experiment.device)
        probs[config.name] = task_of(data.task).probabilities(logits)
        rows.append(
            {
                "name": config.name,
                "kind": "teacher" if config.name in teacher_names else "student",
                "strategy": config.strategy.name,
                "seed": experiment.recipe.seed,
                "params": classifier.num_parameters,
                "size_bytes": (folder / "best.safetensors").stat().st_size,
                "test": score(probs[config.name], data.test.labels, data.classes),
                **speeds.pop((config.name, "torch"), {}),
            }
        )
    if experiment.recipe.random_forest.trees:
        rows.append(_forest_row(experiment))
    rows += _onnx_rows(experiment, speeds, probs)
    if reference is not None:
        key = task_of(data.task).agreement_key
        for row in rows:
            if row["name"] in probs:
                row[key] = task_of(data.task).agreement(probs[row["name"]], probs[reference])
    verdict = build_verdict(rows, reference, task_of(data.task).main_score)
    return {"rows": rows, "verdict": verdict, "env": environment()}


def _forest_row(experiment: Experiment) -> Row:
    data, recipe = experiment.data, experiment.recipe
    probs = random_forest_probs(data, recipe.random_forest, recipe.seed)
    return {
        "name": "random_forest",
        "kind": "control",
        "seed": recipe.seed,
        "test": score(probs, data.test.labels, data.classes),
    }


def _onnx_rows(
    experiment: Experiment,
    speeds: dict[tuple[str, str], Row],
    probs: dict[str, NDArray[Any]],
) -> list[Row]:
    """Exported files, scored through the shipped runtime with the thresholds they carry.

    Then come opponents that were only timed.
    """
    data, rows = experiment.data, []
    for file in sorted((experiment.out / "export").glob("*.onnx")):
        predictor = Predictor(file)
        found = run_on_pixels(predictor, data.test.pixels)
        probs[file.name] = found
        export = read_json(file.parent / "export.json")
        rows.append(
            {
                "name": file.name,
                "kind": "onnx",
                "strategy": export["strategy"],
                "seed": experiment.recipe.seed,
                "params": export["params"],
                "size_bytes": file.stat().st_size,
                "test": score(found, data.test.labels, data.classes, predictor.tuned),
                **speeds.pop((file.name, "onnxruntime"), {}),
            }
        )
    for (name, engine), speed in speeds.items():
        if engine == "onnxruntime":
            rows.append({"name": name, "kind": "onnx", **speed})
    return rows


def run_on_pixels(predictor: Predictor, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities of an ONNX file for decoded images, 64 at a time."""
    parts = [
        predictor.probs(np.ascontiguousarray(pixels[i : i + 64])) for i in range(0, len(pixels), 64)
    ]
    return np.concatenate(parts)


def _speeds(file: Path) -> dict[tuple[str, str], Row]:
    """Figures of one image after the other by (name, engine), and the file size if it was timed."""
    if not file.is_file():
        return {}
    wanted, alone = (*LATENCY, "size_bytes", "params"), "single_stream"
    return {
        (row["name"], row["engine"]): {key: row[key] for key in wanted if key in row}
        for row in read_json(file)["rows"]
        if row["batch_size"] == 1
        and row["clock"] == "model"
        and row.get("scenario", alone) == alone
    }


def build_verdict(rows: list[Row], teacher: str | None, main: str) -> dict[str, Any]:
    """The shipped file against the best teacher, and against every file timed beside it.

    Of several files the int8 one is it: it was only published because it is worth it. Without one
    it is the fp32 file.

    Args:
        main: The score that they are compared by, `top1` or `map`.
    """
    by_name = {row["name"]: row for row in rows}
    exported = [row for row in rows if row["kind"] == "onnx" and "test" in row]
    if not exported:
        return {}
    ends = ("int8.onnx", "fp32.onnx", ".onnx")
    shipped = next(row for end in ends for row in exported if row["name"].endswith(end))
    verdict: dict[str, Any] = {"shipped": shipped["name"], main: shipped["test"][main]}
    if teacher is not None:
        verdict["teacher"] = teacher
        verdict[f"{main}_minus_teacher"] = verdict[main] - by_name[teacher]["test"][main]
        verdict["params_share"] = shipped["params"] / by_name[teacher]["params"]
    if "images_per_s" in shipped:
        verdict["times_as_fast_as"] = {
            row["name"]: shipped["images_per_s"] / row["images_per_s"]
            for row in rows
            if row["kind"] == "onnx" and row is not shipped and "images_per_s" in row
        }
    return verdict


def report_experiment(experiment: Experiment) -> dict[str, Any]:
    """Writes `results.json` and the manifest of the whole experiment; returns the results."""
    results = build_results(experiment)
    write_json(experiment.out / "results.json", results)
    kept = [name for name in files_below(experiment.out) if not name.startswith("cache/")]
    write_manifest(experiment.out, kept)
    return results
