"""The command line as a user meets it: whole runs, exact files, errors and exit codes."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from PIL import Image

from distill.cli.app import app
from distill.data.sources import open_source
from distill.data.sources._tables import read_table
from distill.errors import UserError, install_command
from distill.files import read_json, verify_manifest
from distill.pipeline import evaluate as evaluate_module
from distill.pipeline.opening import place_of
from distill.registry import names_in, summaries
from distill.runtime.predict import Predictor
from distill.training import run_log

RECIPE = """
seed = 1
random_forest.trees = 5
haar = "off"
[data]
size = 32
[bench]
batch_sizes = [1, 2]
seconds = 0.02
rounds = 1
[teacher]
name = "teacher"
model = {name = "baseline_cnn", options = {width = [8, 8], hidden = 8}}
train = {epochs = 2, batch_size = 16}
[student]
model = {name = "compact", options = {width = [16, 64], depth = [1, 1], head_width = 0}}
train = {epochs = 2, batch_size = 16}
[export]
int8_max_drop = 100.0
"""
CHAIN = """
[[students]]
name = "first"
strategy.name = "vanilla"
[[students]]
name = "again"
strategy.name = "self_training"
[[students]]
name = "second"
strategy = {name = "noisy_teacher", noise_share = 1.0}
start = "first"
teachers = ["teacher", "first"]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "chain.toml"
    file.write_text(RECIPE + CHAIN)
    return file


@pytest.fixture(scope="module")
def experiment(recipe, photos, tmp_path_factory) -> Path:
    """One finished `distill run`."""
    out = tmp_path_factory.mktemp("runs") / "chain"
    command = ["run", str(recipe), "--data", str(photos), "--out", str(out), "--device", "cpu"]
    program = "from distill.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert {"rows", "verdict", "env"} <= set(last)
    assert "broken.jpg" in done.stderr
    assert "1 images could not be read" in done.stderr
    return out


def test_a_run_writes_exactly_these_files(experiment):
    found = {
        path.relative_to(experiment).as_posix()
        for path in experiment.rglob("*")
        if path.is_file() and "cache" not in path.parts
    }
    of_a_run = {"config.json", "env.json", "metrics.jsonl", "last/state.pt", "best.safetensors"}
    of_a_run |= {"contract.json", "manifest.json", "test_correct.npy", "metrics.csv"}
    runs = ["teachers/teacher", *(f"students/{n}" for n in ("first", "again-self", "again"))]
    runs.append("students/second")
    expected = {f"{folder}/{name}" for folder in runs for name in of_a_run}
    expected |= {"recipe.toml", "data.json", "bench.json", "results.json", "manifest.json"}
    expected |= {"manifest.parquet", "README.md", "report.html", "plan.json"}
    plots = ("results", "confusion", "reliability", "coverage", "curves", "views")
    expected |= {f"plots/{name}.png" for name in plots}
    files = {f"student.{precision}.onnx" for precision in ("fp32", "fp16", "int8")}
    files |= {"labels.txt", "golden.npz", "export.json"}
    assert found == expected | {f"export/{name}" for name in files | {"manifest.json"}}


def test_the_splits_are_kept_as_data(experiment, photos):
    """They were names in a file that no command reads."""
    described = json.loads((experiment / "data.json").read_text())["splits"]
    source = open_source(str(experiment / "manifest.parquet"))  # which compares the hashes
    assert source.root == photos
    for split in ("train", "val", "test"):
        assert [item.name for item in source.items if item.split == split] == described[split]
    assert all(item.group for item in source.items)
    hashes = read_table(experiment / "manifest.parquet", labelled=True).cells("sha256")
    assert len(set(hashes)) == 90
    verify_manifest(experiment)


def test_results_have_a_row_per_model_and_file(experiment):
    results = json.loads((experiment / "results.json").read_text())
    kinds = {row["name"]: row["kind"] for row in results["rows"]}
    assert kinds == {
        "teacher": "teacher",
        "first": "student",
        "again-self": "student",
        "again": "student",
        "second": "student",
        "random_forest": "control",
        "student.fp32.onnx": "onnx",
        "student.fp16.onnx": "onnx",
        "student.int8.onnx": "onnx",
        "teacher.onnx": "onnx",
    }
    assert results["verdict"]["shipped"] == "student.int8.onnx"
    others = {"student.fp32.onnx", "student.fp16.onnx", "teacher.onnx"}
    assert set(results["verdict"]["times_as_fast_as"]) == others
    for row in results["rows"]:
        if row["kind"] == "onnx":
            assert row["images_per_s"] > 0
    shipped = next(row for row in results["rows"] if row["name"] == "student.fp32.onnx")
    assert shipped["batch_size"] == 1
    expected = {"n", "top1", "macro_f1", "macro_recall", "worst_recall", "nll", "ece"}
    assert set(shipped["test"]) == {*expected, "per_class_recall"}
    export = json.loads((experiment / "export" / "export.json").read_text())
    student = export["identity"]["student"]
    trained = next(row for row in results["rows"] if row["name"] == student)
    assert shipped["test"]["per_class_recall"] == trained["test"]["per_class_recall"]
    assert results["elsewhere"] == []


def test_the_chain_starts_from_and_is_taught_by_earlier_links(experiment):
    hashes = {
        folder.name: json.loads((folder / "manifest.json").read_text())["best.safetensors"]
        for folder in (experiment / "students").iterdir()
    }
    teacher = json.loads((experiment / "teachers/teacher/manifest.json").read_text())
    second = json.loads((experiment / "students/second/config.json").read_text())["inputs"]
    assert second["start"] == hashes["first"]
    expected = {"teacher": teacher["best.safetensors"], "first": hashes["first"]}
    assert second["teachers"] == expected
    again = json.loads((experiment / "students/again/config.json").read_text())["inputs"]
    assert again["teachers"] == {"again-self": hashes["again-self"]}


def test_repeating_a_finished_run_trains_nothing(experiment, recipe, photos, distill):
    before = {p: p.stat().st_mtime_ns for p in experiment.rglob("best.safetensors")}
    splits = (experiment / "manifest.parquet").read_bytes()
    status, _, err = distill("run", recipe, "--data", photos, "--out", experiment)
    assert splits == (experiment / "manifest.parquet").read_bytes()
    assert status == 0
    assert err.count("done before, kept") == 7  # five runs, export, bench
    assert "broken.jpg" not in err  # findings are told once
    assert before == {p: p.stat().st_mtime_ns for p in experiment.rglob("best.safetensors")}


def test_a_run_without_timings(distill, tmp_path):
    command = ("run", "students/compact_demo.toml", "--data", "demo:300", "--smoke", "--no-bench")
    status, out, _ = distill(*command, "--out", tmp_path / "out", "--json")
    assert status == 0
    results = json.loads(out.splitlines()[-1])
    assert not (tmp_path / "out" / "bench.json").exists()
    assert "times_as_fast_as" not in results["verdict"]
    kinds = {warning["kind"] for warning in results["warnings"]}
    assert {"few_images", "few_validation_images"} <= kinds
    kept = tmp_path / "out" / "manifest.parquet"
    status, _, err = distill("evaluate", tmp_path / "out", kept)
    assert (status, "name demo:300 itself" in err) == (2, True)
    status, out, _ = distill("evaluate", tmp_path / "out", "demo:300", "--split", "test", "--json")
    shipped = next(r for r in results["rows"] if r["name"] == results["verdict"]["shipped"])
    found = json.loads(out.splitlines()[-1])
    assert (status, found["n"], found["top1"]) == (0, shipped["test"]["n"], shipped["test"]["top1"])


def test_a_changed_recipe_is_refused_and_names_what_changed(experiment, recipe, photos, distill):
    status, _, err = distill(
        "run", recipe, "student.train.lr=5e-4", "--data", photos, "--out", experiment
    )
    assert status == 2
    assert "run.train.lr" in err
    assert "--overwrite" in err


def test_other_splits_are_refused(experiment, recipe, photos, distill):
    """Runs were kept, and described as trained on images that they had been tested on."""
    before = {name: (experiment / name).read_bytes() for name in ("data.json", "manifest.parquet")}
    command = ("run", recipe, "data.val_fraction=0.3", "--data", photos, "--out", experiment)
    status, _, err = distill(*command)
    assert (status, "inputs.splits_sha256" in err) == (2, True)
    assert before == {name: (experiment / name).read_bytes() for name in before}


def test_the_shipped_file_is_self_contained_and_says_what_it_is(experiment):
    file = experiment / "export" / "student.fp32.onnx"
    model = onnx.load(file)
    assert model.opset_import[0].version == 18
    assert model.ir_version <= 10
    image = model.graph.input[0]
    shape = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, shape) == ("image", ["batch", 32, 32, 3])
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [output.name for output in model.graph.output] == ["prob", "cam", "embedding"]
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert set(metadata) >= {
        *("names", "task", "input_spec", "mean", "std", "thresholds", "metrics"),
        *("producer", "data_sha256", "license"),
    }
    raw = file.read_bytes()
    assert b"site-packages" not in raw
    assert str(Path.cwd()).encode() not in raw


def test_cam_averages_to_the_logits_and_the_embedding_makes_them(experiment):
    file = experiment / "export" / "student.fp32.onnx"
    model, predictor = onnx.load(file), Predictor(file)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    bias = next(value for name, value in weights.items() if name.endswith("classifier.bias"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    prob, cam, embedding = predictor.session.run(["prob", "cam", "embedding"], {"image": pixels})
    logits = cam.mean(axis=(2, 3)) + bias
    weight = next(value for name, value in weights.items() if name.endswith("classifier.weight"))
    np.testing.assert_allclose(embedding @ weight.T + bias, logits, atol=1e-4)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(expected, prob, atol=1e-5)


def test_golden_vectors_repeat(experiment):
    predictor = Predictor(experiment / "export" / "student.fp32.onnx")
    golden = np.load(experiment / "export" / "golden.npz")
    pictures = [golden[f"picture_{i}"] for i in range(4)]
    found = [list(p.probs.values()) for p in predictor.predict(pictures)]
    np.testing.assert_allclose(found, golden["prob"], atol=1e-5)
    np.testing.assert_allclose(predictor.probs(golden["image"]), golden["prob"], atol=1e-5)


def test_evaluate_agrees_for_the_run_and_its_file_and_with_the_independent_scorer(
    experiment, photos, distill, repository
):
    export = json.loads((experiment / "export" / "export.json").read_text())
    run_dir = experiment / "students" / export["identity"]["student"]
    file = experiment / "export" / "student.fp32.onnx"
    found = {}
    for model in (run_dir, file):
        status, out, _ = distill("evaluate", model, photos, "--json")
        assert status == 0
        found[model] = json.loads(out.splitlines()[-1])
    assert found[run_dir]["n"] == found[file]["n"] == 90
    assert found[run_dir]["confusion"] == found[file]["confusion"]
    assert "mask_correct/broken.jpg" in found[file]["unreadable"]
    scorer = repository.parent / "shared" / "tools" / "score_onnx.py"
    if not scorer.is_file():
        pytest.skip(f"no independent scorer: {scorer} is missing")
    readable = experiment.parent / "readable"
    for source in photos.rglob("*.png"):
        target = readable / source.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    done = subprocess.run(
        [sys.executable, scorer, file, readable], capture_output=True, text=True, check=True
    )
    assert f"top1 {found[file]['top1']:.2f} on 90 images" in done.stdout


def test_predict_prints_one_object_per_image(experiment, photos, distill):
    file = experiment / "export" / "student.fp32.onnx"
    picture = next(photos.rglob("*.png"))
    status, out, _ = distill("predict", file, picture, "--json")
    assert status == 0
    found = json.loads(out)
    assert set(found) == {"path", "labels", "prob", "probs", "abstained"}
    assert found["path"] == str(picture)
    assert found["prob"] == max(found["probs"].values())
    status, out, err = distill("predict", file, photos / "mask_correct")
    assert status == 2  # one of the folder's pictures is broken
    assert "broken.jpg" in err
    assert len(out.splitlines()) == len(list((photos / "mask_correct").glob("*.png")))


def test_an_experiment_stands_for_the_file_that_it_ships(experiment, photos, distill, tmp_path):
    shipped = json.loads((experiment / "results.json").read_text())["verdict"]["shipped"]
    file = experiment / "export" / shipped
    picture = next(photos.rglob("*.png"))
    found = [distill("predict", model, picture, "--json") for model in (experiment, file)]
    assert found[0][:2] == found[1][:2]
    assert (found[0][2], found[1][2]) == (f"answers of {file}\n", "")
    status, out, _ = distill("evaluate", experiment, photos, "--json")
    assert status == 0
    assert json.loads(out.splitlines()[-1])["model"] == str(file)
    assert f"{file}: top1" in out
    alone = tmp_path / "experiment" / "export"
    alone.mkdir(parents=True)
    for name in ("student.fp16.onnx", "student.fp32.onnx"):  # without int8, fp32 is shipped
        (alone / name).write_bytes((experiment / "export" / name).read_bytes())
    assert Predictor(alone.parent).path == alone / "student.fp32.onnx"
    assert Predictor(alone).path == alone / "student.fp32.onnx"


def evaluated(distill, *arguments) -> tuple[dict, str]:
    status, out, err = distill("evaluate", *arguments, "--json")
    assert status == 0, err
    return json.loads(out.splitlines()[-1]), out


def test_a_score_of_images_that_were_trained_on_says_so(experiment, photos, distill, tmp_path):
    """98 % of a folder that three quarters had been trained on passed for a result."""
    counts = json.loads((experiment / "data.json").read_text())["splits"]
    train, val, test = (len(counts[split]) for split in ("train", "val", "test"))
    for model in (experiment, experiment / "teachers" / "teacher"):
        found, out = evaluated(distill, model, photos)
        kinds = [warning["kind"] for warning in found["warnings"]]
        assert kinds == ["trained_on", "chosen_on"]
        assert f"WARNING: {train} of the 90 images scored were trained on: this score" in out
        assert f"WARNING: {val} of the 90 images scored were chosen on" in out
        assert f"which it has not seen ({test} of 90)." in out
    # The test split alone, as results.json has it, by whichever way it is named.
    results = json.loads((experiment / "results.json").read_text())
    expected = next(r for r in results["rows"] if r["name"] == results["verdict"]["shipped"])[
        "test"
    ]
    elsewhere = tmp_path / "elsewhere"
    for number, file in enumerate(photos.rglob("*.*")):
        target = elsewhere / file.parent.name / f"{number}{file.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    manifest = experiment / "manifest.parquet"
    for data in ((photos, "--split", "test"), (elsewhere, "--split", "test"), (manifest,)):
        found, out = evaluated(distill, experiment, *data)
        assert (found["warnings"], "WARNING" in out) == ([], False)
        assert found["nll"] == pytest.approx(expected["nll"])
        assert {key: found[key] for key in ("n", "top1", "per_class_recall")} == {
            key: expected[key] for key in ("n", "top1", "per_class_recall")
        }
    found, out = evaluated(distill, experiment, manifest, "--split", "val")
    assert [w["kind"] for w in found["warnings"]] == ["chosen_on"]
    assert "Fix: --split test scores those of its test split, which it has not seen." in out


def test_nothing_is_said_of_a_file_without_its_experiment(experiment, photos, distill, tmp_path):
    alone = tmp_path / "student.onnx"
    alone.write_bytes((experiment / "export" / "student.fp32.onnx").read_bytes())
    assert evaluated(distill, alone, photos)[0]["warnings"] == []
    status, _, err = distill("evaluate", alone, photos, "--split", "test")
    assert (status, "no split 'test'" in err) == (2, True)
    status, _, err = distill("evaluate", experiment, "demo:30", "--split", "test")
    assert (status, "none of the images is in split 'test'" in err) == (2, True)


@pytest.mark.parametrize("layout", ["test/{}", "{}"])
def test_pictures_of_one_class_or_of_test_alone_are_scored(
    layout, experiment, photos, distill, tmp_path
):
    """Nobody trains on what is scored: it asked for a folder train, and for a second class."""
    files = sorted((photos / "mask_correct").glob("*.png"))[:5]
    folder = tmp_path / "elsewhere" / layout.format("mask_correct")
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    found, _ = evaluated(distill, experiment, tmp_path / "elsewhere")
    assert found["n"] == 5
    assert found["top1"] == found["per_class_recall"]["mask_correct"]


def test_a_split_that_is_none_is_answered_with_the_three(experiment, photos, distill):
    status, _, err = distill("evaluate", experiment, photos, "--split", "tets")
    assert status == 2
    assert "choose one of train, val, test" in err


def test_copies_of_training_images_in_given_test_splits_are_said(
    experiment, photos, distill, tmp_path
):
    splits = json.loads((experiment / "data.json").read_text())["splits"]
    for split, names in (("train", splits["test"]), ("test", splits["train"][:9])):
        for name in names:
            target = tmp_path / split / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((photos / name).read_bytes())
    for label in {name.split("/")[0] for name in splits["test"]}:
        (tmp_path / "test" / label).mkdir(parents=True, exist_ok=True)
    found, _ = evaluated(distill, experiment, tmp_path)
    (caution,) = found["warnings"]
    assert caution["what"].startswith("9 of the 9 images scored were trained on")
    assert str(experiment / "manifest.parquet") in caution["fix"]


def test_without_pyarrow_a_score_is_given_all_the_same(experiment, photos, distill, monkeypatch):
    def missing(model):
        raise ModuleNotFoundError(name="pyarrow")

    monkeypatch.setattr(evaluate_module, "kept_splits", missing)
    status, out, err = distill("evaluate", experiment, photos, "--json")
    assert (status, json.loads(out.splitlines()[-1])["warnings"]) == (0, [])
    assert f"needs pyarrow: {install_command('train')}" in err
    status, _, err = distill("evaluate", experiment, photos, "--split", "test")
    assert (status, "needs pyarrow" in err) == (2, True)


def test_bench_command_times_a_file_and_a_run(experiment, distill):
    file = experiment / "export" / "student.fp32.onnx"
    arguments = ("bench.batch_sizes=[1]", "bench.seconds=0.02", "bench.rounds=1", "--json")
    status, out, _ = distill("bench", file, experiment / "students" / "first", *arguments)
    assert status == 0
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert {row["engine"] for row in rows} == {"onnxruntime", "torch"}


def test_export_adds_a_target_and_keeps_the_others(experiment, recipe, photos, distill):
    folder = experiment / "export"
    before = {file: file.stat().st_mtime_ns for file in folder.glob("student.*")}
    results = (experiment / "results.json").read_bytes()
    (experiment / "results.json").write_bytes(b"{}")
    status, _, _ = distill("export", experiment, "--target", "triton", "--target", "torchscript")
    assert status == 0
    # The manifest of the experiment has the new files, and still shows what was damaged before.
    with pytest.raises(UserError, match=r"results\.json"):
        verify_manifest(experiment)
    (experiment / "results.json").write_bytes(results)
    verify_manifest(experiment)
    listed = json.loads((experiment / "manifest.json").read_text())
    assert "export/student.torchscript.pt" in listed
    assert (folder / "triton" / "student" / "config.pbtxt").is_file()
    assert before == {file: file.stat().st_mtime_ns for file in before}
    made = json.loads((folder / "export.json").read_text())["targets"]
    assert {"onnx_fp32", "onnx_fp16", "onnx_int8", "triton", "torchscript"} == set(made)
    # From now on they belong to the experiment; its first recipe asks for less and removes nothing.
    status, _, err = distill("export", experiment)
    assert (status, "export: done before, kept" in err) == (0, True)
    status, _, err = distill("run", recipe, "--data", photos, "--out", experiment)
    assert (status, "export: done before, kept" in err) == (0, True)
    assert (folder / "student.torchscript.pt").is_file()


def test_export_again_takes_another_student(experiment, distill):
    status, _, _ = distill("export", experiment, "export.student=first")
    assert status == 0
    record = json.loads((experiment / "export" / "export.json").read_text())
    assert record["identity"]["student"] == "first"
    verify_manifest(experiment)


def test_a_dry_run_knows_the_classes(recipe, photos, distill, tmp_path):
    """It planned hours of training that would have been refused at once."""
    command = ("run", recipe, "--data", photos, "--out", tmp_path / "out", "--dry-run")
    status, _, err = distill(*command, "student.train.class_weights={ nobody = 2.0 }")
    assert status == 2
    assert "class_weights" in err
    assert not (tmp_path / "out").exists()


def test_dry_run_writes_nothing(recipe, photos, distill, tmp_path):
    out = tmp_path / "out"
    status, text, _ = distill("run", recipe, "--data", photos, "--out", out, "--dry-run")
    assert status == 0
    assert "student second: compact by noisy_teacher, 2 epochs" in text
    assert "export: onnx_fp32, onnx_fp16, onnx_int8" in text
    assert not out.exists()


def test_check_lists_what_cannot_be_read(photos, distill, tmp_path):
    status, out, _ = distill("check", photos, "--out", tmp_path, "--json")
    assert status == 0
    assert "broken.jpg" in out
    found = json.loads((tmp_path / "data.json").read_text())
    assert found["findings"][0]["kind"] == "unreadable"
    assert json.loads(out.splitlines()[-1]) == found


def test_the_student_stage_says_which_command_is_missing(recipe, photos, distill, tmp_path):
    status, _, err = distill("student", recipe, "--data", photos, "--out", tmp_path)
    assert status == 2
    assert "distill teacher" in err


def test_find_lr_writes_a_plot_and_a_suggestion(recipe, photos, distill, tmp_path):
    status, out, _ = distill(
        "teacher", recipe, "--data", photos, "--out", tmp_path, "--find-lr", "--json"
    )
    assert status == 0
    found = json.loads(out.splitlines()[-1])["teacher"]
    assert 1e-6 <= found["suggested_lr"] <= 1.0
    assert Image.open(found["plot"]).size[0] > 300


def test_a_dry_run_of_range_tests_writes_nothing(recipe, photos, distill, tmp_path):
    command = ("teacher", recipe, "--data", photos, "--out", tmp_path / "out", "--find-lr")
    status, out, _ = distill(*command, "--dry-run", "--json")
    assert status == 0
    assert json.loads(out.splitlines()[-1]) == {"plan": ["range test of teacher"]}
    assert not (tmp_path / "out").exists()


def test_results_do_not_go_among_the_pictures(recipe, photos, distill):
    """They did, and the command that was to continue took them for a class."""
    inside = Path(photos) / "runs" / "mine"
    status, _, err = distill("run", recipe, "--data", photos, "--out", inside)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "lies among the pictures" in err
    assert not inside.exists()


def test_a_place_is_where_it_was_when_it_was_named(tmp_path, monkeypatch):
    """`.` is a folder wherever a command is started."""
    for name in ("photos", "elsewhere/photos"):
        (tmp_path / name).mkdir(parents=True)
    there = str(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    assert place_of("photos", there) == "photos"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert place_of("photos", there) == there
    assert place_of(".", there) == there
    assert place_of("hf:a/b", None) == "hf:a/b"
    assert place_of("photos", str(tmp_path / "gone")) == "photos"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "nope.toml", "--data", "demo"], "nope.toml"),
        (["run", "students/compact_demo.toml", "--data", "/no/such/folder"], "/no/such/folder"),
        (["run", "students/compact_demo.toml", "--data", "demo:5"], "demo:5"),
        (["run", "students/compact_demo.toml", "--data", "demo", "--device", "tpu"], "--device"),
        (["run", "students/compact_demo.toml", "--data", "demo", "--sead", "1"], "--sead"),
        (["run", "students/compact_demo.toml", "--data", "demo", "data.sise=3"], "data.sise"),
        (["run", "students/compact_demo.toml", "--data", "demo", "student.train.lr=-1"], "lr"),
        (["run", "students/compact_demo.toml", "--data", "demo", "data.size"], "data.size"),
        (
            ["run", "students/compact_demo.toml", "--data", "demo", "student.strategy.name=nope"],
            "'nope'",
        ),
        (
            ["run", "students/compact_demo.toml", "--data", "demo", "teacher.model.name=timm/no"],
            "'no'",
        ),
        (["evaluate", "nope.onnx", "demo"], "nope.onnx"),
        (["predict", "pyproject.toml", "README.md"], "pyproject.toml"),
        (["predict", "tests", "README.md"], "no shipped file in this folder"),
        (["teacher", "tests"], "distill run"),
        (["report", "tests"], "recipe.toml"),
        (["inspect", "pyproject.toml"], "pyproject.toml"),
        (
            ["run", "students/compact_demo.toml", "--data", "demo", 'export.targets=["hubb"]'],
            "hub,",
        ),
        (["bench", "tests"], "tests"),
        (["explode"], "explode"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, named, distill, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text("not onnx")
    (tmp_path / "README.md").write_text("not a picture")
    status, _, err = distill(*arguments)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    assert named in err
    assert not (tmp_path / "runs").exists()


def test_interrupted_is_130_and_the_same_command_continues(
    recipe, photos, distill, tmp_path, monkeypatch
):
    import distill.training.fit as module

    step, left = module.Trainer.step, {"steps": 5}

    def interrupted(self, *arguments):
        left["steps"] -= 1
        if left["steps"] < 0:
            raise KeyboardInterrupt
        return step(self, *arguments)

    command = ("teacher", recipe, "--data", photos, "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.Trainer, "step", interrupted)
        status, _, err = distill(*command)
    assert status == 130
    assert "repeat the command" in err
    status, _, err = distill(*command)
    assert status == 0
    assert "epoch 1/2" not in err
    assert "epoch 2/2" in err


def test_a_full_disk_is_one_line_and_status_3(recipe, photos, distill, tmp_path, monkeypatch):
    """What is written without a temporary file ended in a traceback."""

    def full(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(run_log, "append_line", full)
    status, _, err = distill("teacher", recipe, "--data", photos, "--out", tmp_path)
    assert status == 3
    assert err.splitlines()[-1].startswith("error: no space left: ")
    assert err.splitlines()[-1].endswith("metrics.jsonl. Fix: make room and repeat the command.")


def test_a_refused_recipe_leaves_the_description_of_the_directory_as_it_was(
    experiment, recipe, photos, distill
):
    """A changed recipe once replaced recipe.toml before it was refused."""
    before = {name: (experiment / name).read_bytes() for name in ("recipe.toml", "data.json")}
    status, _, err = distill(
        "run", recipe, "student.train.lr=5e-4", "--data", photos, "--out", experiment
    )
    assert status == 2
    assert all(name in err for name in ("first", "second", "again"))
    status, _, err = distill("run", recipe, "--data", "demo:90", "--out", experiment)
    assert status == 2
    assert "data_sha256" in err
    assert before == {name: (experiment / name).read_bytes() for name in before}


def test_a_wrong_word_is_answered_with_the_right_one(distill):
    for command, meant in (
        (("train",), "did you mean 'run'?"),
        (("rum",), "'rum'. Did you mean 'run'?\n"),
        (("run", "x", "--epochs", "3"), "did you mean student.train.epochs=3?"),
        (("student", "x", "--lr=1e-3"), "student.train.lr=1e-3"),
        (("run", "x", "--overwite"), "--overwite. Fix: did you mean --overwrite?\n"),
        (("evaluate", "x", "y", "--epochs", "3"), "--epochs. Fix: see distill evaluate --help.\n"),
        (
            ("run", "students/compact_demo.toml", "--data", "demo", "student.train.epoch=3"),
            "'student.train.epoch': students/compact_demo.toml. Fix: did you mean "
            "student.train.epochs?\n",
        ),
        (("run", "students/compact_demo.toml", "--data", "demo", "dta.size=3"), "mean data?"),
        (
            ("run", "students/compact_demo.toml", "--data", "demo", "student.epochs=3"),
            "did you mean student.train.epochs?",
        ),
    ):
        status, out, err = distill(*command)
        assert (status, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert meant in err


def test_version(distill):
    from distill import __version__

    assert distill("--version") == (0, f"distillate {__version__}\n", "")


def commands(group, path=()):
    """Every command with the words that it is called by, groups among them."""
    for name, command in group.commands.items():
        yield (*path, name), command
        yield from commands(command, (*path, name)) if hasattr(command, "commands") else ()


def test_the_help_of_every_command_ends_with_two_examples(distill, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    known = dict(commands(typer.main.get_command(app)))
    assert {("run",), ("cache", "build"), ("bench", "training")} <= known.keys()
    for path in ((), *known):
        status, out, _ = distill(*path, "--help")
        assert status == 0
        lines = [line.strip() for line in out.split("Examples:")[1].strip().splitlines()]
        assert len(lines) == 2, path  # none of them is wrapped
        called = path if path != ("bench", "inference") else ("bench",)  # which may be left out
        assert all(line.split()[: len(called) + 1] == ["distill", *called] for line in lines)
        if "KEY=VALUE" in out and "bench" not in path:
            assert "distill options" in " ".join(out.replace("│", " ").split())


def test_the_help_names_what_can_be_named(distill, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = distill("export", "--help")
    listed = out.split("Targets:")[1].split("Examples:")[0]
    said = summaries("export", "Target")
    assert {"onnx_fp32", "triton", "web"} <= said.keys() == set(names_in("export", "Target"))
    for name, text in said.items():
        assert text
        assert f"{name} {text}" in " ".join(listed.split())
    _, out, _ = distill("search", "--help")
    assert "the table `search`" in out  # [search] was taken for markup, and was gone
    _, out, _ = distill("--help")
    groups = [line for line in out.splitlines() if line.startswith("╭─")]
    titles = ["Options", "The pipeline", "Its stages", "The shipped file", "Tools"]
    assert [group.strip("╭╮─ ") for group in groups] == titles


def test_the_help_imports_no_torch():
    program = "import sys; sys.argv = ['distill', '--help']\nfrom distill.cli import main\n"
    program += "main()\nassert not {'torch', 'timm', 'onnx', 'onnxruntime'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_experiment_finds_its_data_from_another_folder(photos, distill, tmp_path, monkeypatch):
    """`export runs/mine` from elsewhere looked for the relative folder there."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "pictures").symlink_to(photos)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "mine.toml").write_text(RECIPE)
    status, _, err = distill("run", "mine.toml", "--data", "pictures", "--out", "out", "--no-bench")
    assert status == 0, err
    known = json.loads((tmp_path / "here" / "out" / "data.json").read_text())
    assert known["location"] == "pictures"
    monkeypatch.chdir(tmp_path)
    status, _, err = distill("report", "here/out", "--dry-run")
    assert status == 0, err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Could not determine home directory."), "set HOME"),
        (KeyError("getpwuid(): uid not found: 12345"), "and USER"),
    ],
)
def test_a_user_whom_the_system_does_not_know(error, words, distill, monkeypatch):
    """In containers, started by number; it was a traceback."""

    def fails(*arguments):
        raise error

    monkeypatch.setattr("distill.data.sources.hf._cached", fails)
    status, _, err = distill("check", "hf:me/mine")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert words in err


@pytest.mark.parametrize("home", [None, "/proc/nowhere"])
def test_without_a_home_folder_torchvision_says_what_to_set(home, distill, monkeypatch):
    monkeypatch.delenv("DISTILLATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    else:
        monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    status, _, err = distill("check", "torchvision:MNIST")
    assert status == 2
    assert "set DISTILLATE_HOME to a folder that can be written to" in err


def test_a_student_is_trained_where_a_split_lacks_a_class(write_images, tmp_path, distill):
    """It was refused twice, by advice that contradicted itself."""
    names = [f"train/{c}/{i}.png" for c in "abc" for i in range(9)]
    names += [f"{split}/{c}/{i}.png" for split in ("val", "test") for c in "ac" for i in range(3)]
    photos = write_images(tmp_path / "photos", names)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    command = ("run", recipe, "--data", photos, "--out", tmp_path / "out", "--no-bench")
    status, _out, err = distill(*command)
    assert status == 0, err
    assert "warning: listing: val has no image of b" in err
    recall = json.loads((tmp_path / "out" / "results.json").read_text())
    (student,) = [row for row in recall["rows"] if row["kind"] == "student"]
    assert set(student["test"]["per_class_recall"]) == {"a", "c"}


def test_pictures_from_elsewhere(experiment, photos, tmp_path, distill):
    """Every model is scored on them, now and in later reports; pictures that are known flatter."""
    copied = tmp_path / "copied"
    shutil.copytree(experiment, copied)
    status, out, err = distill("report", copied, "--also", photos)
    assert status == 0, err
    results = read_json(copied / "results.json")
    (place,) = results["elsewhere"]
    names = {row["name"] for row in results["rows"] if "test" in row}
    assert {row["name"] for row in place["rows"]} == names - {"random_forest"}
    assert "distance" not in results  # of so few test images there are no quarters
    assert "trained_on" in {caution["kind"] for caution in results["warnings"]}
    assert str(photos) in out
    assert distill("report", copied)[0] == 0
    assert len(read_json(copied / "results.json")["elsewhere"]) == 1


def test_pictures_from_elsewhere_are_looked_at_before_anything_is_trained(
    recipe, photos, tmp_path, distill
):
    for name in ("no such class", "nor such"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        shutil.copy(next(photos.rglob("*.jpg")), tmp_path / "elsewhere" / name / "1.jpg")
    options = ("--data", photos, "--also", tmp_path / "elsewhere")
    for more in ((), ("--dry-run",)):
        status, _, err = distill("run", recipe, *options, "--out", tmp_path / "out", *more)
        assert status == 2
        assert "no class 'no such class'" in err
    assert not (tmp_path / "out" / "teachers").exists()
    status, out, err = distill("run", photos, "--also", tmp_path / "nowhere", "--dry-run")
    assert (status, out) == (2, "")  # and no plan
    assert "no such folder" in err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.train.epochs=many", "epochs"),
        ("student.train.epochs=", "epochs"),
        ("teacher.train.epochs=[3]", "epochs"),
        ("student.train.batch_size=0", "batch_size"),
        ("student.train=3", "student.train is a table"),
        ("student.model=lite", "write student.model.name=lite"),
        ("students=3", "students is a table"),
        ("data=3", "data"),
    ],
)
def test_options_of_a_plan_that_make_no_sense_are_one_line(override, said, photos, distill):
    """They were reckoned with before they were checked, and ended in tracebacks."""
    for extra in (["--dry-run"], ["--dry-run", "--smoke"]):
        status, _, err = distill("run", photos, override, *extra)
        assert (status, said in err) == (2, True), err
        assert "Traceback" not in err


def test_what_is_not_named_is_not_the_folder_one_is_in(tiny_onnx, distill):
    for command in (["predict", tiny_onnx, ""], ["predict", "", tiny_onnx], ["run", ""]):
        status, _, err = distill(*command)
        assert (status, "an empty name" in err) == (2, True), err


def test_models_and_pictures_in_the_wrong_places(experiment, photos, distill):
    picture = next(photos.rglob("*.png"))
    status, _, err = distill("predict", picture, experiment)
    assert (status, "a picture, not a model" in err) == (2, True), err
    assert distill("predict", experiment / "export", picture)[0] == 0
    assert distill("inspect", experiment)[0] == 0
    status, _, err = distill("compare", experiment, experiment)
    assert (status, "name one of its runs" in err) == (2, True), err
