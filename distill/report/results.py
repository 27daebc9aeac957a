"""`results.json`: a row per trained model, control and exported file, and what follows from them.

This is where the test split is read, once, after everything was chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill import run
from distill.baselines import random_forest_probs
from distill.experiment import Experiment, all_runs, best_run
from distill.metrics import agreement, score, softmax
from distill.predict import Predictor
from distill.runs import load_run
from distill.train import predict_logits

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
        classifier = load_run(folder).to(experiment.device)
        logits = predict_logits(classifier, data.test, experiment.device)
        probs[config.name] = softmax(logits)
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
        for row in rows:
            if row["name"] in probs:
                row["agreement_top1"] = agreement(probs[row["name"]], probs[reference])
    return {"rows": rows, "verdict": _verdict(rows, reference), "env": run.environment()}


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
    """Exported files, scored through the shipped runtime, then opponents that were only timed."""
    data, rows = experiment.data, []
    for file in sorted((experiment.out / "export").glob("*.onnx")):
        found = run_on_pixels(file, data.test.pixels)
        probs[file.name] = found
        export = run.read_json(file.parent / "export.json")
        rows.append(
            {
                "name": file.name,
                "kind": "onnx",
                "strategy": export["strategy"],
                "seed": experiment.recipe.seed,
                "params": export["params"],
                "size_bytes": file.stat().st_size,
                "test": score(found, data.test.labels, data.classes),
                **speeds.pop((file.name, "onnxruntime"), {}),
            }
        )
    for (name, engine), speed in speeds.items():
        if engine == "onnxruntime":
            rows.append({"name": name, "kind": "onnx", **speed})
    return rows


def run_on_pixels(file: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities of an ONNX file for decoded images, 64 at a time."""
    predictor = Predictor(file)
    parts = [
        predictor.probs(np.ascontiguousarray(pixels[i : i + 64])) for i in range(0, len(pixels), 64)
    ]
    return np.concatenate(parts)


def _speeds(file: Path) -> dict[tuple[str, str], Row]:
    """Model-only figures at batch size 1 by (name, engine), and the file size if it was timed."""
    if not file.is_file():
        return {}
    wanted = (*LATENCY, "size_bytes", "params")
    return {
        (row["name"], row["engine"]): {key: row[key] for key in wanted if key in row}
        for row in run.read_json(file)["rows"]
        if row["batch_size"] == 1 and row["clock"] == "model"
    }


def _verdict(rows: list[Row], teacher: str | None) -> dict[str, Any]:
    """The shipped file against the best teacher, and against every file timed beside it."""
    by_name = {row["name"]: row for row in rows}
    shipped = next((row for row in rows if row["kind"] == "onnx" and "test" in row), None)
    if shipped is None:
        return {}
    verdict: dict[str, Any] = {"shipped": shipped["name"], "top1": shipped["test"]["top1"]}
    if teacher is not None:
        verdict["teacher"] = teacher
        verdict["top1_minus_teacher"] = verdict["top1"] - by_name[teacher]["test"]["top1"]
        verdict["params_share"] = shipped["params"] / by_name[teacher]["params"]
    if "images_per_s" in shipped:
        verdict["times_as_fast_as"] = {
            row["name"]: shipped["images_per_s"] / row["images_per_s"]
            for row in rows
            if row["kind"] == "onnx" and row is not shipped and "images_per_s" in row
        }
    return verdict
