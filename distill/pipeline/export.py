"""The export stage: the chosen student in every form that the recipe asks for.

`export.json` says how each target was made. A target that is made already, of the same student and
options, is kept; one that fails leaves nothing behind.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill import __version__
from distill.data.views.images import TrainingImages
from distill.errors import install_command
from distill.export import Record, Target, make_targets
from distill.export.shipment import Shipment
from distill.files import (
    MANIFEST,
    amend_manifest,
    files_below,
    is_complete,
    read_json,
    remove_folder,
    sha256_of,
    write_json,
    write_manifest,
)
from distill.lock import lock
from distill.models.classifier import Classifier
from distill.models.deployed import deployed
from distill.models.head import at_temperature
from distill.models.inference import predict_logits
from distill.pipeline.experiment import Experiment
from distill.pipeline.int8_training import int8_distillation
from distill.pipeline.materials import materials
from distill.pipeline.runs import chosen_student
from distill.pipeline.stored import EXPORT, ExportFile
from distill.report.threshold_plots import draw_thresholds
from distill.runtime.shipped import preferred
from distill.scoring.calibration import best_temperature
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of
from distill.scoring.thresholds import Tuned, tune
from distill.training.run_directory import BEST

PLOTS = "plots"
# Whoever reads `mean` and `std` beside it may think that they are theirs to apply.
DESCRIPTION = (
    "uint8 RGB pixels [batch, height, width, 3] in, resized as input_spec says; probabilities out: "
    "normalisation and {activation} are inside, do neither again"
)


def export_student(experiment: Experiment) -> None:
    """Makes those targets of the recipe that are not made yet, or of another student.

    Another command that exports the same experiment is waited for.
    """
    waiting = "export: another process exports this experiment, waiting for that one to end"
    experiment.out.mkdir(parents=True, exist_ok=True)
    with lock(experiment.out / "export.lock", True, lambda: experiment.progress.say(waiting)):
        _export_student(experiment)


def _export_student(experiment: Experiment) -> None:
    folder, name = experiment.out / "export", chosen_student(experiment)
    scaling = with_temperature(experiment, folder, name)
    targets = make_targets(experiment.recipe.export)
    record = open_record(folder, identity_of(experiment, name, scaling))
    ships = preferred(file.name for file in folder.glob("student*.onnx"))
    for key, made in record["targets"].items():
        if ships in made["files"] and key not in targets:
            line = f"export: {ships} is kept and ships, though {key} is no target now"
            experiment.progress.say(f"{line}: to be without it, remove {folder}")
    if is_complete(folder) and all(is_made(folder, record, *item) for item in targets.items()):
        experiment.progress.say("export: done before, kept")
        return
    shipment, summary = prepare(experiment, name, scaling)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for leftover in folder.glob("*.tmp"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    record |= summary
    for key, target in targets.items():
        if not is_made(folder, record, key, target):
            record["targets"][key] = make_target(shipment, record, key, target)
            write_json(folder / EXPORT, record)
    write_manifest(folder, files_below(folder))
    amend_manifest(experiment.out, folder, experiment.out / PLOTS)


def _is_of(known: Record, identity: Record) -> bool:
    """Whether files are of an identity.

    Files of earlier versions lack options that came later: a temperature, the licence of their
    images, how large they might be.
    """
    earlier = {"temperature_scaling": False, "data_license": "", "int8_max_kb": 0.0}
    options = {**earlier, **known["options"]}
    return {**known, "options": options} == identity


def with_temperature(experiment: Experiment, folder: Path, name: str) -> bool:
    """Whether logits are divided by a temperature: as the recipe says, and files that are there.

    Files of versions that had no temperature stay, and targets that are added agree with them.
    """
    wanted = experiment.recipe.export.temperature_scaling
    if wanted and (folder / EXPORT).is_file():
        known = read_json(folder / EXPORT, ExportFile)["identity"]
        is_old = "temperature_scaling" not in known["options"]
        return not (is_old and _is_of(known, identity_of(experiment, name, False)))
    return wanted


def identity_of(experiment: Experiment, name: str, scaling: bool) -> Record:
    """What all targets depend on: the student, the options of the stage, and our version."""
    options = experiment.recipe.export.model_dump(mode="json", exclude={"targets"})
    return {
        "student": name,
        "weights_sha256": experiment.finished(name).weights_sha256,
        "options": {**options, "temperature_scaling": scaling},
        "producer": producer(),
    }


def open_record(folder: Path, identity: Record) -> Record:
    """`export.json` as far as it goes; a folder of another identity is emptied first."""
    if (folder / EXPORT).is_file():
        record: Record = read_json(folder / EXPORT, ExportFile)
        if _is_of(record["identity"], identity):
            return record
    remove_folder(folder)
    return {"identity": identity, "targets": {}}


def inputs_of(folder: Path, target: Target) -> dict[str, str]:
    """Hashes of the ONNX files that a target packs."""
    return {f.name: sha256_of(f) for f in sorted(folder.glob("*.onnx"))} if target.packs else {}


def is_made(folder: Path, record: Record, key: str, target: Target) -> bool:
    """Whether a target's files are there as they were written, of these options and inputs."""
    made = record["targets"].get(key)
    if not made or made["options"] != target.model_dump(mode="json"):
        return False
    if made["inputs"] != inputs_of(folder, target):
        return False
    return all(
        (folder / path).is_file() and sha256_of(folder / path) == row["sha256"]
        for path, row in made["files"].items()
    )


def make_target(shipment: Shipment, record: Record, key: str, target: Target) -> Record:
    """Makes a target in a folder of its own and moves it into place; returns its entry."""
    folder = shipment.folder
    for path in record["targets"].pop(key, {"files": {}})["files"]:
        (folder / path).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{key}.", suffix=".tmp", dir=folder) as name:
        work = Path(name)
        made = target.make(shipment, work)
        files = {
            path: {
                "size_bytes": (work / path).stat().st_size,
                "sha256": sha256_of(work / path),
                **made.get("files", {}).get(path, {}),
            }
            for path in files_below(work)
        }
        for entry in work.iterdir():
            shutil.rmtree(folder / entry.name, ignore_errors=True)
            entry.replace(folder / entry.name)
    options = {"options": target.model_dump(mode="json"), "inputs": inputs_of(folder, target)}
    return {**options, **made, "files": files}


def prepare(experiment: Experiment, name: str, scaling: bool) -> tuple[Shipment, Record]:
    """The student with its metadata, and what `export.json` says of it. Writes no file of it."""
    finished = experiment.finished(name)
    classifier = finished.load()
    classifier, probs, calibration = calibrated(experiment, classifier, scaling)
    tuned = tune_on_validation(experiment, probs)
    metadata = shipped_metadata(experiment, classifier, finished.strategy, probs, tuned)
    metadata["temperature"] = calibration["temperature"]
    summary = {
        "strategy": finished.strategy,
        "params": sum(p.numel() for p in deployed(classifier).parameters()),
        "calibration": {"split": "val", **calibration},
        "thresholds": {"split": "val", **tuned.record},
    }
    recipe, data = experiment.recipe, experiment.data
    size = data.spec.height
    shipment = Shipment(
        student=name,
        weights=finished.folder / BEST,
        model=finished.config["run"]["model"],
        classifier=classifier,
        metadata=metadata,
        val_probs=probs,
        data=data,
        images=TrainingImages((data.train,), data.classes, recipe.views, recipe.seed, size),
        config=recipe.export,
        folder=experiment.out / "export",
        progress=experiment.progress,
        threads=recipe.bench.threads,
        distil=int8_distillation(experiment, name, calibration["temperature"]),
        materials=materials(experiment, name),
    )
    return shipment, summary


def producer() -> str:
    """What wrote the file."""
    return f"distillate {__version__}"


def calibrated(
    experiment: Experiment, classifier: Classifier, scaling: bool
) -> tuple[Classifier, NDArray[np.float32], Record]:
    """The classifier at the temperature that fits validation best, or as it is without `scaling`.

    Returns:
        The classifier, its probabilities of the validation split, `(n, classes)`, and what
        `export.json` says of it: the `temperature`, and the expected calibration error with it
        and without, in percent.
    """
    data, device = experiment.data, experiment.device
    task, labels = task_of(data.task), data.val.labels
    # In the precision of the shipped file, whose probabilities are to meet the thresholds.
    logits = predict_logits(classifier.to(device), data.val, device)
    probs = task.probabilities(logits).astype(np.float32)
    if not scaling:
        return classifier, probs, {"temperature": 1.0}
    temperature = best_temperature(logits, labels, task)
    scaled = at_temperature(classifier, temperature)
    if scaled is None:
        experiment.progress.say(
            "export: no temperature, the network does not end in a linear layer"
        )
        return classifier, probs, {"temperature": 1.0}
    after = task.probabilities(logits / temperature).astype(np.float32)
    before_ece, after_ece = (score(p, labels, data.classes)["ece"] for p in (probs, after))
    experiment.progress.say(
        f"export: temperature {temperature:.2f}, by which confidences are off by "
        f"{after_ece:.1f} points on validation, {before_ece:.1f} without"
    )
    record = {"temperature": temperature, "ece": after_ece, "uncalibrated_ece": before_ece}
    return scaled, after, record


def tune_on_validation(experiment: Experiment, probs: NDArray[np.float32]) -> Tuned:
    """The thresholds that follow from probabilities of the validation split.

    Draws the curves that the thresholds were taken from, if any were tuned.
    """
    val, classes = experiment.data.val, experiment.data.classes
    tuned = tune(probs, val.labels, classes, experiment.recipe.export)
    if tuned.rule != "none":
        place = experiment.out / PLOTS / "thresholds.png"
        try:
            draw_thresholds(probs, val.labels, tuned, place)
        except ModuleNotFoundError as error:
            missing = f"needs {error.name}: {install_command('report')}"
            experiment.progress.say(f"export: no plot of the thresholds, it {missing}")
    for name, row in tuned.record.get("labels", {}).items():
        if "note" in row:
            experiment.progress.say(f"export: threshold of {name}: {row['note']}")
    return tuned


def shipped_metadata(
    experiment: Experiment,
    classifier: Classifier,
    strategy: str,
    probs: NDArray[np.float32],
    tuned: Tuned,
) -> dict[str, Any]:
    """The metadata of a shipped file.

    Its metrics are of the validation split, `probs` being its probabilities there, with the
    thresholds.
    """
    data, contract = experiment.data, classifier.contract
    metrics = score(probs, data.val.labels, data.classes, tuned.array())
    return {
        "description": DESCRIPTION.format(activation=task_of(contract.task).activation),
        "names": list(contract.names),
        "task": contract.task,
        "input_spec": contract.input_spec.model_dump(),
        "mean": contract.mean,
        "std": contract.std,
        "thresholds": tuned.thresholds,
        "metrics": {"split": "val", **metrics},
        "strategy": strategy,
        "producer": producer(),
        "precision": "fp32",
        "data_sha256": data.sha256,
        "license": experiment.recipe.export.license,
    }
