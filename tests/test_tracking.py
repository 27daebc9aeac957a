"""Trackers: what each of them has of a run afterwards, read back with its own means."""

import csv
import importlib.util
import json
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.config import ModelConfig, RunConfig, StrategyConfig, TrainConfig, ViewsConfig
from distill.errors import UserError
from distill.files import read_json, verify_manifest, write_json
from distill.models.classifier import build_classifier
from distill.pipeline.opening import Settings, open_experiment
from distill.pipeline.report import report_experiment, score_experiment
from distill.pipeline.stages import run_stages
from distill.progress import Progress
from distill.recipe import load_recipe, modules_of, recipe_of
from distill.registry import names_in
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.trackers import FOLDER, check_installed, find_tracker
from distill.training.tracking import FILE, Tracking, flat

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
TINY = ModelConfig(name="compact", options={"width": [8, 16], "depth": [1, 1], "head_width": 0})
TAKES_BACK = ("tensorboard", "mlflow")  # of which a step that is told again leaves one point
OWN = """
from pathlib import Path

PACKAGES = ()
FAILS = ""
OPENED = []


class Tracker:
    def __init__(self, run, step):
        OPENED.append((run.name, step))
        self.tried("open")

    def log(self, step, numbers):
        if step == 1:
            self.tried("log")

    def close(self, finished):
        self.tried("close")

    def tried(self, what):
        if what == FAILS:
            raise OSError(f"cannot {what}")
"""
# By metric its points: (step, value).
Points = dict[str, list[tuple[int, float]]]


def with_package(name: str) -> Any:
    """A tracker as a parameter; skipped where `make trackers` was not run."""
    is_there = name == "tensorboard" or importlib.util.find_spec(name) is not None
    lacks = pytest.mark.skipif(not is_there, reason=f"{name} is not installed: make trackers")
    return pytest.param(name, marks=[pytest.mark.trackers, lacks] if name != "tensorboard" else [])


@pytest.fixture(scope="module", autouse=True)
def trackio_home(tmp_path_factory):
    """trackio reads it when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield


@pytest.fixture
def own(tmp_path, monkeypatch) -> Any:
    """A tracker of the user's, as a module; its `FAILS` names the call that raises."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tracker.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield find_tracker("mine.tracker")
    for name in ("mine", "mine.tracker"):
        sys.modules.pop(name, None)


def make_job(data, out: Path, *trackers: str, **train) -> Job:
    config = RunConfig(
        name="tiny",
        model=TINY,
        strategy=StrategyConfig(name="supervised"),
        train=TrainConfig(**{"epochs": 3, "batch_size": 16, "lr": 2e-3, **train}),
    )
    folder = out / "students" / "tiny"
    odd = {"a key, (not) of every tracker": "value"}
    tracking = Tracking(trackers, out)
    return Job(config, data, ViewsConfig(), 0, folder, inputs=odd, tracking=tracking)


def tiny(data):
    torch.manual_seed(0)
    return build_classifier(TINY, data.classes, data.spec)


def rows(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").open()]


def expected(job: Job) -> Points:
    """The points of `metrics.jsonl`."""
    names = rows(job)[-1].keys() - {"epoch"}
    return {name: [(row["epoch"], row[name]) for row in rows(job) if name in row] for name in names}


def points_of_tensorboard(out: Path) -> list[tuple[Points, Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for folder in sorted((out / "track" / "tensorboard").iterdir()):
        events = EventAccumulator(str(folder)).Reload()
        names = events.Tags()["scalars"]
        points = {n: [(p.step, p.value) for p in events.Scalars(n)] for n in names}
        summary = events.SummaryMetadata("_hparams_/session_start_info")
        found.append((points, summary.plugin_data.content.decode(errors="replace")))
    return found


def points_of_mlflow(out: Path) -> list[tuple[Points, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out / 'track' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(out.name)
    found = []
    for run in client.search_runs([experiment.experiment_id]):
        assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
        histories = {n: client.get_metric_history(run.info.run_id, n) for n in run.data.metrics}
        points = {n: sorted((p.step, p.value) for p in history) for n, history in histories.items()}
        found.append((points, run.data.params))
    return found


def records_of(file: Path) -> list[Any]:
    """The records of a W&B file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts, found = file.read_bytes(), 7, [], []
    while len(content) - place >= 7:
        left = 32768 - place % 32768
        if left < 7:  # no room for another header in this block
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(b"".join(parts)))
            parts = []
    return found


def points_of_wandb(out: Path) -> list[tuple[Points, Any]]:
    """By run: of however many files, as `wandb sync` joins them by their id."""
    by_run: dict[str, tuple[Points, dict[str, str]]] = {}
    for file in sorted((out / "track" / "wandb").glob("offline-run-*/*.wandb")):
        records = records_of(file)
        (run,) = (record.run for record in records if record.HasField("run"))
        assert (run.project, run.display_name) == (out.name, "tiny")
        config = {item.key: item.value_json for item in run.config.update}
        points, _ = by_run.setdefault(run.run_id, ({}, config))
        for record in (record for record in records if record.HasField("history")):
            items = record.history.item
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            for name in (name for name in row if not name.startswith("_")):
                points.setdefault(name, []).append((row["_step"], row[name]))
    return list(by_run.values())


def points_of_trackio(out: Path) -> list[tuple[Points, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    found = []
    for run in SQLiteStorage.get_runs(out.name):
        points: Points = {}
        for row in SQLiteStorage.get_logs(out.name, run):
            for name in row.keys() - {"timestamp", "step"}:
                points.setdefault(name, []).append((row["step"], row[name]))
        found.append((points, SQLiteStorage.get_run_config(out.name, run)))
    return found


READERS = {
    "tensorboard": points_of_tensorboard,
    "mlflow": points_of_mlflow,
    "wandb": points_of_wandb,
    "trackio": points_of_trackio,
}


@pytest.mark.parametrize("name", [with_package(name) for name in READERS])
def test_a_run_that_is_stopped_and_goes_on_is_one_run_there(name, data, tmp_path, fit_until, capfd):
    """Each epoch once, with the numbers of `metrics.jsonl`; and it is the run that it would be."""
    job, plain = make_job(data, tmp_path / "mine", name), make_job(data, tmp_path / "plain")
    fit_until(tiny(data), job, 2)
    if name in TAKES_BACK:  # and was killed before it had kept that its tracker was told
        known = read_json(job.folder / FILE)
        assert known["told"] == {name: 2}
        write_json(job.folder / FILE, {**known, "told": {name: 1}})
    fit(tiny(data), job, CPU, Progress())
    ((points, options),) = READERS[name](job.tracking.out)
    known = expected(job)
    assert points.keys() >= known.keys()
    for metric in known:
        assert points[metric] == [(n, pytest.approx(value)) for n, value in known[metric]], metric
    assert "train.lr" in options
    assert capfd.readouterr().out == ""  # which is for results
    fit(tiny(data), plain, CPU, QUIET)
    weights, others = (load_file(j.folder / "best.safetensors") for j in (job, plain))
    assert all(torch.equal(weights[key], others[key]) for key in others)
    assert json.loads((job.folder / "config.json").read_text()) == json.loads(
        (plain.folder / "config.json").read_text()
    )


def test_every_file_of_the_folder_is_read_back_above():
    assert READERS.keys() == {*names_in(FOLDER, "Tracker")}


def test_a_tracker_that_comes_later_is_told_what_it_missed(data, tmp_path, fit_until):
    job = make_job(data, tmp_path / "mine")
    fit_until(tiny(data), job, 2)
    assert not (job.folder / FILE).exists()
    job = replace(job, tracking=Tracking(("tensorboard",), job.tracking.out))
    fit(tiny(data), job, CPU, QUIET)
    ((points, _),) = points_of_tensorboard(job.tracking.out)
    assert [step for step, _ in points["train/loss"]] == [0, 1, 2]


def test_a_run_that_begins_again_is_another_one(data, tmp_path, fit_until):
    """Of the same name, so that TensorBoard shows its points alone."""
    job = make_job(data, tmp_path / "mine", "tensorboard")
    fit_until(tiny(data), job, 2)
    before = read_json(job.folder / FILE)
    (job.folder / "last" / "state.pt").write_bytes(b"damaged")
    fit_until(tiny(data), job, 1)
    after = read_json(job.folder / FILE)
    assert after["id"] != before["id"]
    assert after["told"] == {"tensorboard": 1}
    ((points, _),) = points_of_tensorboard(job.tracking.out)
    assert [step for step, _ in points["train/loss"]] == [0]


def test_a_run_that_is_stopped_in_its_first_epoch_keeps_its_id(data, tmp_path, fit_until):
    job = make_job(data, tmp_path / "mine", "tensorboard")
    fit_until(tiny(data), job, 0)
    before = read_json(job.folder / FILE)
    fit_until(tiny(data), job, 1)
    assert read_json(job.folder / FILE)["id"] == before["id"]


@pytest.mark.parametrize("call", ["open", "log", "close"])
def test_a_tracker_that_fails_costs_a_line(own, call, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own, "FAILS", call)
    job = make_job(data, tmp_path / "mine", "mine.tracker", "tensorboard")
    fit(tiny(data), job, CPU, Progress())
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert f"mine.tracker failed (cannot {call})" in warnings[0]
    verify_manifest(job.folder)
    ((points, _),) = points_of_tensorboard(job.tracking.out)
    assert [step for step, _ in points["train/loss"]] == [0, 1, 2]


def test_the_table_is_what_the_lines_are(data, tmp_path, fit_until):
    """Also of epochs that were not validated, and of a run that goes on after half a line."""
    job = make_job(data, tmp_path / "mine", epochs=4, validate_every=2)
    fit_until(tiny(data), job, 3)
    with (job.folder / "metrics.csv").open("a") as file:
        file.write("3,0.0")
    fit(tiny(data), job, CPU, QUIET)
    with (job.folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    read = [{key: float(cell) for key, cell in row.items() if cell} for row in table]
    assert read == rows(job)
    assert [bool(row["val/loss"]) for row in table] == [False, True, False, True]


def test_options_become_text_where_trackers_have_no_type():
    options = {"seed": 1, "train": {"lr": 0.1, "compile": False}, "start": None, "teachers": ["a"]}
    assert flat(options) == {
        "seed": 1,
        "train.lr": 0.1,
        "train.compile": False,
        "start": "none",
        "teachers": "a",
    }


def test_a_name_for_every_experiment(tmp_path):
    assert Tracking((), tmp_path / "Läufe: 1/2").experiment == "2"
    assert Tracking((), tmp_path / "a b#c").experiment == "a-b-c"


def test_names_and_packages_are_checked_before_anything_is_read(
    own, distill, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    command = ("run", "students/compact_demo.toml", "--data", "demo:60", "--out", out)
    status, _, err = distill(*command, "track=tensorbord")
    assert status == 2
    assert "mlflow, tensorboard, trackio, wandb" in err
    monkeypatch.setattr(own, "PACKAGES", ("tracker_of_nobody",))
    status, _, err = distill(*command, "track=tensorboard,mine.tracker")
    assert status == 2
    assert "pip install tracker_of_nobody" in err
    assert not out.exists()


def test_a_folder_that_a_tracker_left_is_not_its_package(tmp_path, own, monkeypatch):
    """W&B writes to `wandb/`, which Python takes for a package where no other one is."""
    (tmp_path / "left_behind").mkdir()
    monkeypatch.setattr(own, "PACKAGES", ("left_behind",))
    with pytest.raises(UserError, match="pip install left_behind"):
        check_installed(["mine.tracker"])


def test_a_tracker_of_ones_own_is_a_module_that_opening_runs(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('track = ["tensorboard", "mine.tracker"]\n[student]\nmodel.name = "compact"')
    assert modules_of(load_recipe(recipe)) == ["mine.tracker"]
    assert recipe_of(["track=tensorboard,wandb"]).track == ("tensorboard", "wandb")


RECIPE = """
seeds = 2
track = ["tensorboard", "mine.tracker"]
random_forest.trees = 0
export.targets = []
[data]
size = 32
[teacher]
name = "teacher"
model = { name = "baseline_cnn", options = { width = [8, 8], hidden = 8 } }
train = { epochs = 1, batch_size = 16 }
[student]
name = "small"
model = { name = "compact", options = { width = [16, 64], depth = [1, 1], head_width = 0 } }
strategy = { name = "vanilla" }
train = { epochs = 1, batch_size = 16 }
"""


def run(recipe: Path, out: Path) -> None:
    """What `distill run` does but for the check, the page and the timings."""
    experiment = open_experiment(str(recipe), [], "demo:60", Settings(out, "cpu"))
    run_stages(experiment, ("teacher", "student"), dry_run=False, as_json=False)
    report_experiment(experiment, score_experiment(experiment))


def test_every_run_of_an_experiment_is_one_and_a_second_time_opens_nothing(own, tmp_path):
    recipe, out = tmp_path / "recipe.toml", tmp_path / "mine-run"
    recipe.write_text(RECIPE)
    run(recipe, out)
    runs = ["teacher", "small-alone", "small", "small-alone-seed1", "small-seed1"]
    assert own.OPENED[:5] == [(run, 0) for run in runs]
    assert sorted(own.OPENED[5:]) == sorted((run, 1) for run in runs)  # for what they scored
    results = {row["name"]: row for row in read_json(out / "results.json")["rows"]}
    folders = sorted((out / "track" / "tensorboard").iterdir())
    assert [folder.name for folder in folders] == sorted(runs)
    for folder, (points, _) in zip(folders, points_of_tensorboard(out), strict=True):
        assert [step for step, _ in points["train/loss"]] == [0]
        top1 = results[folder.name]["test"]["top1"]
        assert points["test/top1"] == [(1, pytest.approx(top1))]
    verify_manifest(out)
    for name in runs:
        verify_manifest(out / ("teachers" if name == "teacher" else "students") / name)
    files = sorted(out.glob("track/**/*"))
    run(recipe, out)
    assert len(own.OPENED) == 10
    assert sorted(out.glob("track/**/*")) == files
    assert not any(name.startswith("track/") for name in read_json(out / "manifest.json"))
