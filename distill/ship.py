"""The stages after training: export the chosen student, time it, and write the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill import __version__, run
from distill.benchmarks.speed import Subject, measure, onnx_subject, torch_subject
from distill.config import ModelConfig
from distill.data.training import TrainingImages
from distill.experiment import Experiment, best_run
from distill.export.golden import write_golden
from distill.export.int8_steps import summary
from distill.export.onnx_fp32 import export_onnx
from distill.export.onnx_int8 import export_int8
from distill.metrics import probabilities, score
from distill.models import Classifier, build_classifier, deployed
from distill.qad import int8_distillation
from distill.report.results import build_results
from distill.report.threshold_plots import draw_thresholds
from distill.runs import load_run
from distill.thresholds import Tuned, tune
from distill.train import predict_logits

TIMED_IMAGES = 64  # encoded pictures that the decoding clock runs over
CALIBRATION_IMAGES = 256  # training images that int8 takes its ranges from


def chosen_student(experiment: Experiment) -> str:
    """The student that the recipe names, or the best on validation, the last of equals."""
    recipe = experiment.recipe
    if recipe.export.student != "best":
        return recipe.export.student
    return best_run(experiment, [config.name for config in reversed(recipe.students)])


def export_student(experiment: Experiment) -> None:
    """Exports the chosen student, verified on the whole test split, unless that is done."""
    folder, name = experiment.out / "export", chosen_student(experiment)
    source = experiment.folder(name)
    identity = {
        "student": name,
        "weights_sha256": run.read_json(source / run.MANIFEST)["best.safetensors"],
        "options": experiment.recipe.export.model_dump(mode="json"),
        "producer": producer(),
    }
    if run.is_complete(folder):
        if run.read_json(folder / "export.json")["identity"] == identity:
            experiment.progress.say("export: done before, kept")
            return
        run.remove(folder)
    data, classifier = experiment.data, load_run(source)
    probs, tuned = tune_on_validation(experiment, classifier)
    file = folder / "student.fp32.onnx"
    found = export_onnx(
        classifier,
        file,
        shipped_metadata(experiment, classifier, source, probs, tuned),
        data.test.pixels,
        experiment.recipe.export.path,
    )
    write_golden(file, folder / "golden.npz")
    with run.atomic(folder / "labels.txt") as temporary:
        temporary.write_text("\n".join(data.classes) + "\n", "utf-8")
    parameters = sum(p.numel() for p in deployed(classifier).parameters())
    config = run.read_json(source / "config.json")["run"]
    record = {
        "identity": identity,
        "strategy": config["strategy"]["name"],
        "params": parameters,
        "thresholds": {"split": "val", **tuned.record},
        "files": {file.name: {"size_bytes": file.stat().st_size, **found}},
    }
    parity = found["tried"][-1]
    experiment.progress.say(
        f"export: {file}, {file.stat().st_size / 1e6:.2f} MB, agrees with torch on "
        f"{parity['agreement']:.2f} % of {parity['n']:,} test images, "
        f"largest difference {parity['max_prob_difference']:.1e}"
    )
    if experiment.recipe.export.int8:
        record["int8"] = add_int8(experiment, file, record["files"])
    run.write_json(folder / "export.json", record)
    run.write_manifest(folder, run.files_below(folder))


def add_int8(experiment: Experiment, source: Path, files: dict[str, Any]) -> dict[str, Any]:
    """Writes an int8 file beside the fp32 one if it passes, and adds it to `files`.

    Returns:
        What was tried, passed or not.
    """
    file, val = source.with_name("student.int8.onnx"), experiment.data.val
    experiment.progress.say("export: int8, by calibrations first")
    record = export_int8(
        source,
        file,
        calibration_pixels(experiment),
        (val.pixels, val.labels),
        experiment.recipe.export,
        experiment.recipe.bench.threads,
        int8_distillation(experiment, chosen_student(experiment)),
    )
    if "thresholds" in record:
        thresholds = record.pop("thresholds")
        step = record["steps"][-1]["step"]
        files[file.name] = {
            "size_bytes": file.stat().st_size,
            "step": step,
            "thresholds": thresholds,
        }
    experiment.progress.say(f"export: {summary(record)}")
    return record


def calibration_pixels(experiment: Experiment) -> NDArray[np.uint8]:
    """View 0 of some training images, drawn by the seed: uint8 `(n, height, width, 3)`."""
    recipe, data, cpu = experiment.recipe, experiment.data, torch.device("cpu")
    splits, size = (data.train,), data.spec.height
    images = TrainingImages(splits, data.classes, recipe.views, recipe.seed, size)
    count = min(CALIBRATION_IMAGES, len(images))
    ids = np.random.default_rng(recipe.seed).choice(len(images), count, replace=False)
    views = [images.view(ids[i : i + 64], 0, cpu) for i in range(0, count, 64)]
    pixels = torch.cat(views).mul(255.0).round().to(torch.uint8).permute(0, 2, 3, 1)
    found: NDArray[np.uint8] = pixels.contiguous().numpy()
    return found


def producer() -> str:
    """What wrote the file."""
    return f"distillate {__version__}"


def tune_on_validation(
    experiment: Experiment, classifier: Classifier
) -> tuple[NDArray[np.float32], Tuned]:
    """Probabilities of the validation split, and the thresholds that follow from them.

    Draws the curves that the thresholds were taken from, if any were tuned.
    """
    val, classes = experiment.data.val, experiment.data.classes
    logits = predict_logits(classifier.to(experiment.device), val, experiment.device)
    # In the precision of the shipped file, whose probabilities are to meet these thresholds.
    probs = probabilities(logits, experiment.data.task).astype(np.float32)
    tuned = tune(probs, val.labels, classes, experiment.recipe.export)
    if tuned.rule != "none":
        place = experiment.out / "plots" / "thresholds.png"
        try:
            draw_thresholds(probs, val.labels, tuned, place)
        except ModuleNotFoundError as error:
            missing = f"needs {error.name}: pip install 'distillate[report]'"
            experiment.progress.say(f"export: no plot of the thresholds, it {missing}")
    for name, row in tuned.record.get("labels", {}).items():
        if "note" in row:
            experiment.progress.say(f"export: threshold of {name}: {row['note']}")
    return probs, tuned


def shipped_metadata(
    experiment: Experiment,
    classifier: Classifier,
    source: Path,
    probs: NDArray[np.float32],
    tuned: Tuned,
) -> dict[str, Any]:
    """The metadata of a shipped file.

    Its metrics are of the validation split, `probs` being its probabilities there, with the
    thresholds.
    """
    data, contract = experiment.data, classifier.contract
    metrics = score(probs, data.val.labels, data.classes, tuned.array())
    config = run.read_json(source / "config.json")["run"]
    return {
        "names": list(contract.names),
        "task": contract.task,
        "input_spec": contract.input_spec.model_dump(),
        "mean": contract.mean,
        "std": contract.std,
        "thresholds": tuned.thresholds,
        "metrics": {"split": "val", **metrics},
        "strategy": config["strategy"]["name"],
        "producer": producer(),
        "precision": "fp32",
        "data_sha256": data.sha256,
        "license": experiment.recipe.export.license,
    }


def bench_experiment(experiment: Experiment) -> None:
    """Times the exported files, the best teacher and the opponents side by side."""
    config, out = experiment.recipe.bench, experiment.out
    place = out / "bench.json"
    exported = sorted((out / "export").glob("*.onnx"))
    identity = {
        "options": config.model_dump(mode="json"),
        "files": {file.name: run.sha256_of(file) for file in exported},
    }
    if place.is_file() and run.read_json(place).get("identity") == identity:
        experiment.progress.say("bench: done before, kept")
        return
    student = chosen_student(experiment)
    subjects = [onnx_subject(file, config.threads, file.name) for file in exported]
    names = [teacher.name for teacher in experiment.recipe.teachers]
    if names:
        subjects.append(_teacher_onnx(experiment, best_run(experiment, names)))
    subjects += [_opponent(experiment, name) for name in config.opponents]
    for name in (student, *names):
        subjects.append(torch_subject(name, experiment.folder(name), config.threads))
    rows = measure(subjects, config, experiment.progress, encoded_images(experiment))
    run.write_json(place, {"identity": identity, "rows": rows, "env": run.environment()})


def _teacher_onnx(experiment: Experiment, name: str) -> Subject:
    """The teacher as a file like the student's, in the cache: it is timed, not shipped."""
    classifier = load_run(experiment.folder(name))
    return _timed_file(experiment, classifier, f"{name}.onnx")


def _opponent(experiment: Experiment, name: str) -> Subject:
    """A network of that name with random weights: speed does not depend on them."""
    data = experiment.data
    model = ModelConfig(name=name)
    classifier = build_classifier(model, data.classes, data.spec, task=data.task).eval()
    return _timed_file(experiment, classifier, f"{name.split('/')[-1]}.onnx")


def _timed_file(experiment: Experiment, classifier: Classifier, name: str) -> Subject:
    contract = classifier.contract
    metadata = {
        "names": list(contract.names),
        "task": contract.task,
        "input_spec": contract.input_spec.model_dump(),
        "thresholds": {},
    }
    file = experiment.out / "cache" / "bench" / name
    export_onnx(classifier, file, metadata, experiment.data.val.pixels[:64])
    return onnx_subject(file, experiment.recipe.bench.threads, name)


def encoded_images(experiment: Experiment) -> list[bytes]:
    """Some test pictures as the files hold them, for the clock that includes decoding."""
    from distill.data.sources import open_source

    source = open_source(experiment.location, experiment.recipe.data.task)
    wanted = set(experiment.data.test.names[:TIMED_IMAGES])
    raw = [source.read(item) for item in source.items if item.name in wanted]
    return [content for content in raw if isinstance(content, bytes)]


def report_experiment(experiment: Experiment) -> dict[str, Any]:
    """Writes `results.json` and the manifest of the whole experiment; returns the results."""
    results = build_results(experiment)
    run.write_json(experiment.out / "results.json", results)
    kept = [name for name in run.files_below(experiment.out) if not name.startswith("cache/")]
    run.write_manifest(experiment.out, kept)
    return results
