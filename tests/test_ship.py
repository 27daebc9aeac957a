"""What is shipped: thresholds tuned on validation, in the file, its scores, results and answers."""

import io
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from distill.config import ExportConfig, ModelConfig, RunConfig, StrategyConfig
from distill.data.sources import Item, Source
from distill.data.store import Split
from distill.data.views.images import TrainingImages
from distill.errors import UserError
from distill.export import shipment
from distill.export.model_card import experiment_card
from distill.files import (
    is_complete,
    read_json,
    remove_folder,
    sha256_of,
    verify_manifest,
    write_json,
)
from distill.models.classifier import build_classifier
from distill.pipeline import evaluate as evaluate_module
from distill.pipeline import export as stage
from distill.pipeline.answers import true_labels
from distill.pipeline.bench import with_speeds
from distill.pipeline.evaluate import evaluate
from distill.pipeline.experiment import Experiment
from distill.pipeline.export import export_student
from distill.pipeline.int8_training import distil_quantised, qad_config
from distill.pipeline.report import report_experiment, score_experiment
from distill.pipeline.verdicts import build_verdict
from distill.progress import Progress
from distill.report.results import ResultRow, Results
from distill.report.table import LESSER, results_table, show_rows
from distill.report.threshold_plots import draw_thresholds, shown_labels
from distill.runtime.predict import Predictor
from distill.scoring.metrics import score, sigmoid
from distill.scoring.tasks import task_of
from distill.scoring.thresholds import tune
from distill.training.run_directory import open_run

NAMES = ("red", "green", "blue")
WIDE = ModelConfig(name="compact", options={"width": [32, 64], "depth": [1, 1], "head_width": 0})
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def multi(tmp_path_factory, make_experiment) -> Experiment:
    """Many labels, exported."""
    experiment = make_experiment(tmp_path_factory.mktemp("multi"), "multi")
    export_student(experiment)
    return experiment


@pytest.fixture(scope="module")
def single(tmp_path_factory, make_experiment) -> Experiment:
    """One label and a confidence threshold, exported."""
    options = {"thresholds": "accuracy", "min_accuracy": 75.0}
    experiment = make_experiment(tmp_path_factory.mktemp("single"), "single", **options)
    export_student(experiment)
    return experiment


def shipped(experiment: Experiment) -> Path:
    return experiment.out / "export" / "student.fp32.onnx"


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def source_of(split: Split, classes: tuple[str, ...] = NAMES) -> Source:
    """A split as a data source."""
    pictures = dict(zip(split.names, map(encoded, split.pixels), strict=True))
    labels = [
        tuple(np.flatnonzero(row).tolist()) if split.labels.ndim == 2 else int(row)
        for row in split.labels
    ]
    items = tuple(Item(name, label) for name, label in zip(split.names, labels, strict=True))
    task = "multi" if split.labels.ndim == 2 else "single"
    return Source("made up", classes, items, lambda item: pictures[item.name], "", task=task)


@pytest.fixture
def opened(monkeypatch):
    """Makes `evaluate` find a source; returns the tasks that it asked for."""
    asked: list[str] = []

    def serve(source: Source) -> list[str]:
        def open_source(location: str, task: str, to_train: bool) -> Source:
            asked.append(task)
            return source

        monkeypatch.setattr(evaluate_module, "open_source", open_source)
        return asked

    return serve


def test_the_file_says_what_its_labels_have_to_reach(multi):
    predictor, val = Predictor(shipped(multi)), multi.data.val
    metadata, record = predictor.metadata, read_json(multi.out / "export" / "export.json")
    assert metadata["task"] == "multi"
    assert list(metadata["thresholds"]) == list(NAMES)
    probs = predictor.probs(val.pixels)
    # Tuned on validation: of all rounded thresholds none gives a label a better F1.
    for label, name in enumerate(NAMES):
        truth = val.labels[:, label] == 1
        tries = {}
        for threshold in (metadata["thresholds"][name], *np.linspace(0, 1, 201)):
            given = probs[:, label] >= np.float32(threshold)
            tries[threshold] = 200 * (given & truth).sum() / (given.sum() + truth.sum())
        row = record["thresholds"]["labels"][name]
        assert row["threshold"] == metadata["thresholds"][name]
        assert max(tries.values()) == tries[row["threshold"]] == pytest.approx(row["f1"])
    assert (record["thresholds"]["split"], record["thresholds"]["rule"]) == ("val", "f1")
    found = score(probs, val.labels, NAMES, predictor.thresholds)
    assert metadata["metrics"]["split"] == "val"
    for key in ("map", "macro_f1", "micro_f1", "exact_match", "hamming", "nll"):
        assert metadata["metrics"][key] == pytest.approx(found[key], abs=1e-4)


def test_its_probabilities_are_sigmoids_and_its_maps_average_to_the_logits(multi):
    predictor, pixels = Predictor(shipped(multi)), multi.data.test.pixels[:7]
    prob, cam = predictor.session.run(["prob", "cam"], {"image": pixels})
    classifier = open_run(multi.folder("student")).load()
    images = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        logits = classifier(images).logits.numpy()
    temperature = predictor.metadata["temperature"]
    np.testing.assert_allclose(prob, sigmoid(logits / temperature), atol=1e-5)
    bias = classifier.network.classifier.bias.detach().numpy()
    scaled = cam.mean(axis=(2, 3)) + bias / temperature
    np.testing.assert_allclose(scaled, logits / temperature, atol=1e-4)
    golden = np.load(multi.out / "export" / "golden.npz")
    np.testing.assert_allclose(predictor.probs(golden["image"]), golden["prob"], atol=1e-5)


def test_an_image_may_have_several_labels_or_no_confident_one(multi):
    predictor, pixels = Predictor(shipped(multi)), multi.data.test.pixels
    given = predictor.probs(pixels) >= predictor.thresholds
    found = predictor.predict(pixels)
    assert [set(p.labels) for p in found] == [{NAMES[i] for i in np.flatnonzero(r)} for r in given]
    assert [p.abstained for p in found] == [not row.any() for row in given]
    assert given.any(axis=1).any()
    assert not given.all()


def test_results_of_many_labels(multi):
    results = score_experiment(multi)
    rows = {row["name"]: row for row in results.to_json()["rows"]}
    assert set(rows) == {"teacher", "student", "random_forest", "student.fp32.onnx"}
    assert all("map" in row["test"] and "top1" not in row["test"] for row in rows.values())
    student, file = rows["student"], rows["student.fp32.onnx"]
    assert file["test"]["map"] == pytest.approx(student["test"]["map"], abs=1e-3)
    predictor, test = Predictor(shipped(multi)), multi.data.test
    probs = predictor.probs(test.pixels)
    assert file["test"] == score(probs, test.labels, NAMES, predictor.thresholds)
    at_half = score(probs, test.labels, NAMES)["per_class_recall"]
    assert student["test"]["per_class_recall"] == pytest.approx(at_half)
    assert file["test"]["per_class_recall"] != pytest.approx(at_half)
    assert rows["teacher"]["agreement_labels"] == 100.0
    assert student["agreement_labels"] == file["agreement_labels"] < 100.0
    assert not any("agreement_top1" in row for row in rows.values())
    verdict = results.verdict
    assert verdict["map"] == file["test"]["map"]
    difference = file["test"]["map"] - rows["teacher"]["test"]["map"]
    assert verdict["map_minus_teacher"] == pytest.approx(difference)
    assert not {"top1", "top1_minus_teacher"} & set(verdict)
    (asked,) = (q for q in verdict["questions"] if q["question"].endswith("over teacher"))
    assert asked["unit"] == "map"
    assert asked["difference_points"] == pytest.approx(difference)
    run = multi.folder("student")
    assert 100 * np.load(run / "test_map.npy").mean() == pytest.approx(student["test"]["map"])
    assert np.load(run / "test_correct.npy").shape == test.labels.shape
    assert {"test_map.npy", "test_correct.npy"} <= set(verify_manifest(run))
    # Colours are easy for a forest: better than the share of positives, which is what chance gives.
    assert rows["random_forest"]["test"]["map"] > 100 * test.labels.mean()
    headers = [str(column.header) for column in results_table(results).columns]
    assert "mAP %" in headers
    assert "top1 %" not in headers


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_card_of_an_experiment_has_test_scores_and_what_it_warns_of(
    task, tmp_path, make_experiment
):
    """Warnings were known after the only card had been written."""
    yaml = pytest.importorskip("yaml")
    experiment = make_experiment(tmp_path, task)
    rare = experiment.data.test.labels[3:]
    rare[(slice(None), 2) if task == "multi" else rare == 2] = 0
    export_student(experiment)
    results = report_experiment(experiment, score_experiment(experiment))
    verify_manifest(tmp_path)
    text = (tmp_path / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    main, file = task_of(task).main_score, "student.fp32.onnx"
    row = next(row for row in results.rows if row.name == file)
    (result,) = yaml.safe_load(head)["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0]["value"] == pytest.approx(row.test[main] / 100)
    names = [row.name for row in results.rows if row.kind != "student"]
    assert f"| score | {' | '.join(names)} |" in body
    assert f'Predictor("export/{file}")' in body
    assert "few_images" in {caution.kind for caution in results.warnings}
    parts = body.split("\n## ")
    heads = ["Warnings", "Verdict", "Scores", "Use", "Limits", "Licences"]
    assert [part.splitlines()[0] for part in parts[1:]] == heads
    for caution in results.warnings:
        assert f"- {caution.what}. Fix: {caution.fix}." in parts[1]
    calm = results.model_copy(update={"warnings": ()})
    assert "Warnings" not in experiment_card(calm, Predictor(shipped(experiment)).metadata)


@pytest.fixture
def measured() -> Results:
    """Results with every column filled."""
    scores = {"n": 9, "top1": 95.0, "macro_f1": 94.0, "per_class_recall": {"a": 90.0}}
    row = ResultRow(
        name="student.fp16.onnx",
        kind="onnx",
        strategy="logit_standardisation",
        params=3_374_851,
        size_bytes=13_690_000,
        test=scores,
        agreement_top1=100.0,
        latency_p50_ms=11.055,
        images_per_s=1_236.0,
    )
    return Results(rows=(row,), verdict={}, env={})


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_narrow_terminal_gets_fewer_columns_not_broken_words(measured, width, monkeypatch):
    """At 80 columns names ran downwards, a letter a line."""
    from rich.console import Console

    written = io.StringIO()
    monkeypatch.setattr(
        "distill.report.table.console_of", lambda stream: Console(file=written, width=width)
    )
    show_rows(measured)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("student.fp16.onnx" in line for line in lines) == 1
    assert "95.00" in written.getvalue()
    assert ("logit_standardisation" in written.getvalue()) == (width == 120)


def test_columns_that_nobody_measured_are_left_out(measured):
    untimed = measured.rows[0].model_copy(update={"latency_p50_ms": None, "images_per_s": None})
    table = results_table(measured.model_copy(update={"rows": (untimed,)}), LESSER[:1])
    headers = [str(column.header) for column in table.columns]
    assert headers == ["name", "kind", "params", "MB", "top1 %", "F1 %", "agree %"]


@pytest.mark.parametrize(("percent", "kinds"), [(99.0, ["busy_machine"]), (5.0, [])])
def test_speeds_of_a_busy_machine_are_warned_of(measured, percent, kinds, tmp_path):
    (tmp_path / "bench.json").write_text(
        json.dumps({"rows": [], "env": {"cpu_busy_percent": percent}})
    )
    found = with_speeds(measured, tmp_path, "top1")
    assert [caution.kind for caution in found.warnings] == kinds


def test_times_of_files_that_were_exported_before_are_left_out(measured, tmp_path):
    file = tmp_path / "export" / "student.fp16.onnx"
    file.parent.mkdir()
    file.write_bytes(b"new")
    row = {"name": file.name, "engine": "onnxruntime", "batch_size": 1, "clock": "model"}
    times = {"rows": [{**row, "latency_p50_ms": 0.05}], "env": {"cpu_busy_percent": 0.0}}
    for sha256, ms, kinds in (("old", 11.055, ["stale_times"]), (sha256_of(file), 0.05, [])):
        known = {**times, "identity": {"files": {file.name: sha256}}}
        (tmp_path / "bench.json").write_text(json.dumps(known))
        found = with_speeds(measured, tmp_path, "top1")
        assert found.rows[0].latency_p50_ms == ms
        assert [caution.kind for caution in found.warnings] == kinds


def test_files_of_other_weights_are_not_scored_as_the_student(tmp_path, make_experiment):
    experiment = make_experiment(tmp_path, "single")
    export_student(experiment)
    record = read_json(tmp_path / "export" / "export.json")
    assert score_experiment(experiment).verdict["shipped"]
    record["identity"]["weights_sha256"] = "0" * 64
    write_json(tmp_path / "export" / "export.json", record)
    with pytest.raises(UserError, match=r"not of student as it is now.*distill export"):
        score_experiment(experiment)


def test_the_forest_knows_labels_that_training_has_always_or_never(tmp_path, make_experiment):
    experiment = make_experiment(tmp_path, "multi")
    experiment.data.train.labels[:, :2] = [0, 1]
    probs = ship_forest(experiment)
    assert probs.shape == (30, 3)
    assert (probs[:, 0] == 0).all()
    assert (probs[:, 1] == 1).all()
    assert 0 < probs[:, 2].mean() < 1


def ship_forest(experiment: Experiment) -> np.ndarray:
    from distill.scoring.baselines import random_forest_probs

    return random_forest_probs(experiment.data, experiment.recipe.random_forest, 0)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_an_int8_file_is_shipped_beside_the_fp32_file(task, tmp_path, make_experiment, opened):
    experiment = make_experiment(
        tmp_path, task, model=WIDE, targets=("onnx_int8",), int8_max_drop=100.0
    )
    export_student(experiment)
    folder = tmp_path / "export"
    names = {"student.fp32.onnx", "student.int8.onnx", "labels.txt", "golden.npz", "export.json"}
    assert {path.name for path in folder.iterdir()} == names | {"manifest.json"}
    verify_manifest(folder)
    record = read_json(folder / "export.json")
    assert set(record) == {"identity", "strategy", "params", "calibration", "thresholds", "targets"}
    made = record["targets"]["onnx_int8"]
    assert made["images"] == {"calibration": 40, "val": 60}
    file, size_bytes = folder / "student.int8.onnx", (folder / "student.int8.onnx").stat().st_size
    described = made["files"][file.name]
    assert (described["size_bytes"], made["steps"][-1]["step"]) == (size_bytes, "minmax")
    assert made["thresholds"]["split"] == "val"
    results = score_experiment(experiment)
    rows = {row["name"]: row for row in results.to_json()["rows"]}
    main = "map" if task == "multi" else "top1"
    test, predictor = experiment.data.test, Predictor(file)
    expected = score(predictor.probs(test.pixels), test.labels, NAMES, predictor.tuned)
    row = rows[file.name]
    assert row["test"] == expected
    assert row["params"] == rows["student.fp32.onnx"]["params"] == record["params"]
    assert row["strategy"] == "supervised"
    assert row["size_bytes"] == size_bytes < rows["student.fp32.onnx"]["size_bytes"]
    assert (results.verdict["shipped"], results.verdict[main]) == (file.name, expected[main])
    opened(source_of(test))
    found = evaluate(file, "made up", None, "cpu", 1, QUIET)
    assert found[main] == pytest.approx(expected[main])


def test_a_file_that_ships_though_nobody_asks_for_it_now_is_told_of(tmp_path, make_experiment):
    first = make_experiment(
        tmp_path, "single", model=WIDE, targets=("onnx_int8",), int8_max_drop=100.0
    )
    export_student(first)
    export = first.recipe.export.model_copy(update={"targets": ()})
    said: list[str] = []
    quiet = Progress(quiet=True)
    quiet.say = said.append
    recipe = first.recipe.model_copy(update={"export": export})
    export_student(replace(first, recipe=recipe, progress=quiet))
    (line,) = (line for line in said if "no target now" in line)
    assert "student.int8.onnx is kept and ships" in line
    said.clear()
    export_student(replace(first, progress=quiet))
    assert not any("no target now" in line for line in said)


def test_an_int8_file_that_loses_too_much_is_not_shipped_and_export_succeeds(
    tmp_path, make_experiment, monkeypatch
):
    """The first of many runs is of the fp32 file; every other one answers at random."""
    from distill.export.int8 import gate as gate_module
    from distill.export.int8 import steps as int8_steps

    run_file, rng = gate_module.probs_of_file, np.random.default_rng(0)

    def noisy(file: Path, pixels: np.ndarray) -> np.ndarray:
        probs = run_file(file, pixels)
        return probs if file.name == "student.fp32.onnx" else rng.random(probs.shape, np.float32)

    monkeypatch.setattr(gate_module, "probs_of_file", noisy)
    monkeypatch.setattr(int8_steps, "METHODS", ("minmax",))
    options = {"targets": ("onnx_int8",), "int8_qad_epochs": 2}
    experiment = make_experiment(tmp_path, "single", model=WIDE, **options)
    export_student(experiment)
    assert is_complete(tmp_path / "export")
    record = read_json(tmp_path / "export" / "export.json")
    made = record["targets"]["onnx_int8"]
    assert made["files"] == {}
    steps = made["steps"]
    assert steps[0]["drop"] > 0.5
    assert all("points of top1 are lost" in step["refused"] for step in steps)
    assert not (tmp_path / "export" / "student.int8.onnx").exists()
    assert score_experiment(experiment).verdict["shipped"] == "student.fp32.onnx"
    # The last thing that was tried is a run like any other, and is not repeated.
    assert steps[-1]["step"] == "quantisation-aware distillation"
    trained = tmp_path / "students" / "student-int8"
    verify_manifest(trained)
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 2
    inputs = read_json(trained / "config.json")["inputs"]
    assert list(inputs["teachers"]) == ["student"]
    weights = read_json(tmp_path / "students" / "student" / "manifest.json")
    assert inputs["start"] == weights["best.safetensors"]
    manifest = (trained / "manifest.json").stat().st_mtime_ns
    remove_folder(tmp_path / "export")
    export_student(experiment)
    assert (trained / "manifest.json").stat().st_mtime_ns == manifest
    # With other options it is.
    experiment.recipe.export.__dict__["int8_qad_epochs"] = 1
    export_student(experiment)
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 1


def test_who_teaches_the_int8_student(tmp_path, make_experiment):
    experiment = make_experiment(tmp_path, "single", model=WIDE, int8_qad_lr=2e-5)
    config = qad_config(experiment, "student")
    assert (config.name, config.start, config.teachers) == ("student-int8", "student", ("student",))
    assert (config.train.epochs, config.train.lr, config.train.ema_decay) == (3, 2e-5, 0.0)
    strategy = StrategyConfig.model_validate({"name": "vanilla", "temperature": 3.0})
    taught = experiment.recipe.students[0].model_copy(update={"strategy": strategy})
    recipe = experiment.recipe.model_copy(update={"students": (taught,)})
    config = qad_config(replace(experiment, recipe=recipe), "student")
    assert config.teachers == ("teacher",)
    assert config.strategy.options == {"temperature": 3.0, "kd_weight": 1.0}


def test_an_int8_run_is_of_the_students_images_seed_and_temperature(tmp_path, make_experiment):
    experiment = make_experiment(tmp_path, "single", model=WIDE, int8_qad_epochs=1)
    student = experiment.recipe.students[0].model_copy(update={"seed": 7, "unlabelled": False})
    recipe = experiment.recipe.model_copy(update={"students": (student,)})
    config = qad_config(replace(experiment, recipe=recipe), "student")
    assert (config.seed, config.unlabelled) == (7, False)
    shipment, _ = stage.prepare(experiment, "student", scaling=True)
    assert isinstance(shipment.distil, partial)
    assert shipment.distil.args[1:] == ("student", shipment.metadata["temperature"])
    assert shipment.metadata["temperature"] != 1.0


def test_an_int8_run_takes_nobodys_name_and_is_no_model_of_its_own(tmp_path, make_experiment):
    experiment = make_experiment(tmp_path, "single", model=WIDE)
    other = RunConfig(name="student-int8", model=WIDE)
    students = (*experiment.recipe.students, other)
    recipe = experiment.recipe.model_copy(update={"students": students})
    none = onnx.ModelProto()
    with pytest.raises(UserError, match="'student-int8' is a run of the recipe"):
        distil_quantised(replace(experiment, recipe=recipe), "student", 1.0, none, none)
    with pytest.raises(UserError, match=r"take export/student\.int8\.onnx"):
        build_classifier(qad_config(experiment, "student").model, NAMES, experiment.data.spec)


def test_calibration_images_are_views_drawn_by_the_seed(tmp_path, make_experiment, monkeypatch):
    experiment = make_experiment(tmp_path, "single")
    made, _ = stage.prepare(experiment, "student", True)
    monkeypatch.setattr(shipment, "CALIBRATION_IMAGES", 70)
    few = made.calibration_pixels()
    assert (few.shape, few.dtype) == ((40, 16, 16, 3), np.uint8)  # there are 40 to train on
    monkeypatch.setattr(shipment, "CALIBRATION_IMAGES", 12)
    some = made.calibration_pixels()
    assert len(some) == 12
    np.testing.assert_array_equal(some, made.calibration_pixels())
    images = TrainingImages(
        (experiment.data.train,), NAMES, experiment.recipe.views, experiment.recipe.seed, 16
    )
    views = images.view(np.arange(40), 0, torch.device("cpu")).permute(0, 2, 3, 1).numpy() * 255
    distance = np.abs(some[:, None].astype(float) - views[None]).max(axis=(2, 3, 4)).min(axis=1)
    assert (distance <= 0.51).all()


@pytest.mark.parametrize("main", ["top1", "map"])
def test_a_verdict_is_of_the_main_score(main):
    def row(name: str, worth: float, kind: str = "onnx", **more) -> ResultRow:
        return ResultRow(**{"name": name, "kind": kind, "params": 4, "test": {main: worth}, **more})

    teacher, file = row("t", 90.0, "teacher", params=10), row("s.onnx", 88.0)
    expected = {"shipped": "s.onnx", main: 88.0, "teacher": "t", "params_share": 0.4}
    assert build_verdict([teacher, file], "t", main) == expected | {f"{main}_minus_teacher": -2.0}
    halves, floats = row("s.fp16.onnx", 87.5), row("s.fp32.onnx", 88.0)
    assert build_verdict([teacher, halves, floats], "t", main)["shipped"] == "s.fp32.onnx"
    timed = [row("s.onnx", 88.0, images_per_s=50.0), row("s.int8.onnx", 87.0, images_per_s=75.0)]
    verdict = build_verdict([teacher, *timed], "t", main)
    assert (verdict["shipped"], verdict[main]) == ("s.int8.onnx", 87.0)
    assert verdict["times_as_fast_as"] == {"s.onnx": 1.5}


def test_evaluate_scores_many_labels_with_the_thresholds_of_the_file(multi, opened):
    test = multi.data.test
    asked = opened(source_of(test))
    found = evaluate(shipped(multi), "made up", None, "cpu", 1, QUIET)
    assert asked == ["multi"]
    predictor = Predictor(shipped(multi))
    expected = score(predictor.probs(test.pixels), test.labels, NAMES, predictor.thresholds)
    assert {key: found[key] for key in expected} == expected
    assert found["positives"] == dict(zip(NAMES, test.labels.sum(axis=0).tolist(), strict=True))
    assert found["thresholds"] == pytest.approx(predictor.metadata["thresholds"])
    assert "confusion" not in found
    of_run = evaluate(multi.folder("student"), "made up", None, "cpu", 1, QUIET)
    assert of_run["map"] == pytest.approx(found["map"], abs=1e-3)
    assert "thresholds" not in of_run
    json.dumps(found, allow_nan=False)


def test_evaluate_takes_classes_by_name(multi, opened):
    """A source that names other classes first, and lacks one, is not mixed up."""
    test = multi.data.test
    opened(source_of(test))
    straight = evaluate(shipped(multi), "made up", None, "cpu", 1, QUIET)
    without = source_of(test)
    turned = {0: 2, 1: 1, 2: 0}
    items = tuple(
        Item(item.name, tuple(sorted(turned[index] for index in item.label)))
        for item in without.items
    )
    opened(Source("made up", ("blue", "green", "red"), items, without.read, "", task="multi"))
    assert evaluate(shipped(multi), "made up", None, "cpu", 1, QUIET) == straight
    pairs = [Item("x", (0,)), Item("y", ()), Item("z", (0, 1))]
    assert true_labels(pairs, ("blue", "red"), NAMES).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 1]]


def test_a_threshold_of_confidence_is_one_for_all_classes(single):
    predictor, val = Predictor(shipped(single)), single.data.val
    assert predictor.task == "single"
    assert len(set(predictor.thresholds)) == 1
    found = score(predictor.probs(val.pixels), val.labels, NAMES, predictor.thresholds)
    assert found["answered"]["accuracy"] >= 75.0
    assert 0 < found["answered"]["coverage"] < 100
    record = read_json(single.out / "export" / "export.json")["thresholds"]
    assert {key: record[key] for key in ("coverage", "accuracy")} == found["answered"]
    assert predictor.metadata["metrics"]["answered"] == found["answered"]


def test_evaluate_reports_what_is_answered_and_top1_of_all(
    single, opened, distill, tmp_path, repository
):
    test, file = single.data.test, shipped(single)
    opened(source_of(test))
    status, out, _ = distill("evaluate", file, "made up", "--json")
    assert status == 0
    found = json.loads(out.splitlines()[-1])
    predictions = Predictor(file).predict(test.pixels)
    given = [p.labels[0] for p in predictions if not p.abstained]
    truth = [NAMES[label] for label in test.labels]
    kept = [label for label, p in zip(truth, predictions, strict=True) if not p.abstained]
    right = sum(a == b for a, b in zip(given, kept, strict=True))
    assert 0 < len(given) < 30
    expected = {"coverage": 100 * len(given) / 30, "accuracy": 100 * right / len(given)}
    assert found["answered"] == pytest.approx(expected)
    # Abstaining does not change the top class, nor what is told of it.
    of_run = evaluate(single.folder("student"), "made up", None, "cpu", 1, QUIET)
    assert of_run["top1"] == found["top1"]
    assert of_run["confusion"] == found["confusion"]
    assert "answered" not in of_run
    scorer = repository.parent / "shared" / "tools" / "score_onnx.py"
    if not scorer.is_file():
        pytest.skip(f"no independent scorer: {scorer} is missing")
    for index, label in enumerate(truth):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.fromarray(test.pixels[index]).save(tmp_path / label / f"{index}.png")
    done = subprocess.run([sys.executable, scorer, file, tmp_path], capture_output=True, text=True)
    assert f"top1 {found['top1']:.2f} on 30 images" in done.stdout


def test_the_command_scores_many_labels(multi, opened, distill):
    opened(source_of(multi.data.test))
    status, out, _ = distill("evaluate", shipped(multi), "made up", "--json")
    assert status == 0
    assert json.loads(out.splitlines()[-1])["map"] > 0
    assert all(name in out for name in NAMES)


def test_an_accuracy_that_cannot_be_had_leaves_nothing_behind(tmp_path, make_experiment):
    options = {"thresholds": "accuracy", "min_accuracy": 99.0}
    experiment = make_experiment(tmp_path, "single", **options)
    experiment.data.val.labels[:] = 0  # a network that finds red never, or is wrong when surest
    _, probs, _ = stage.calibrated(
        make_experiment(tmp_path / "other", "single"),
        open_run(experiment.folder("student")).load(),
        scaling=True,
    )
    experiment.data.val.labels[:] = (probs.argmax(axis=1) + 1) % 3
    with pytest.raises(UserError, match=r"export\.min_accuracy"):
        export_student(experiment)
    assert not (tmp_path / "export").exists()
    assert not (tmp_path / "plots").exists()


def test_without_tuning_there_is_no_picture_and_without_matplotlib_no_failure(
    tmp_path, make_experiment, monkeypatch, multi, single
):
    plain = make_experiment(tmp_path / "plain", "single")
    export_student(plain)
    assert not (plain.out / "plots").exists()
    assert Predictor(shipped(plain)).metadata["thresholds"] == {}
    assert Predictor(shipped(plain)).tuned is None
    half = make_experiment(tmp_path / "half", "multi", thresholds="none")
    export_student(half)
    assert Predictor(shipped(half)).metadata["thresholds"] == dict.fromkeys(NAMES, 0.5)
    for experiment in (multi, single):
        assert (experiment.out / "plots" / "thresholds.png").is_file()

    def missing(*_):
        raise ModuleNotFoundError(name="matplotlib")

    monkeypatch.setattr(stage, "draw_thresholds", missing)
    bare = make_experiment(tmp_path / "bare", "multi", thresholds="fpr", max_fpr=0.1)
    export_student(bare)
    assert Predictor(shipped(bare)).tuned is not None
    assert not (bare.out / "plots").exists()


def test_pictures_can_be_drawn_of_odd_cases(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((9, 30)) < 0.4).astype(np.int64)
    labels[:, 0], labels[:, 1] = 0, 1
    probs, names = rng.random((9, 30)).round(1), tuple(f"$_{i}" for i in range(30))
    few = slice(None), slice(0, 3)
    cases = [
        (probs, labels, names, {}),
        (probs[few], labels[few], names[:3], {"thresholds": "fpr"}),
    ]
    cases += [(labels[few] * 1.0, labels[few], names[:3], {})]
    cases += [(probs[:1, :1], labels[:1, :1], ("one",), {})]
    accuracy = {"thresholds": "accuracy", "min_accuracy": 5.0}
    cases.append((np.array([[1.0, 0.0]]), np.array([0]), ("a", "b"), accuracy))
    for number, (given, truth, named, options) in enumerate(cases):
        tuned = tune(given, truth, named, ExportConfig(**options))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            draw_thresholds(given, truth, tuned, tmp_path / f"{number}.png")
        assert Image.open(tmp_path / f"{number}.png").size[0] >= 600


def test_of_many_labels_the_worst_are_drawn():
    rows = {"a": {"f1": 90.0}, "b": {"f1": 20.0}, "c": {"f1": 80.0}, "d": {"f1": 30.0}}
    assert shown_labels({"labels": rows | {"none": {}}}, most=3) == ["b", "c", "d"]
    assert shown_labels({"labels": rows}, most=4) == list("abcd")
