"""Which runs depend on which, and what is refused before a distillation starts."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.config import BenchConfig, ModelConfig, Recipe, RunConfig, StrategyConfig, TrainConfig
from distill.errors import UserError
from distill.files import files_below, remove_folder, write_json, write_manifest
from distill.pipeline import train as pipeline
from distill.pipeline.experiment import Experiment
from distill.pipeline.plan import check_plugins
from distill.pipeline.runs import all_runs, has_self_teacher, taught_by
from distill.progress import Progress
from distill.training.run_directory import load_run
from distill.training.trainer import make_accelerator

SMALL = ModelConfig(name="baseline_cnn", options={"width": [8, 8], "hidden": 8})
QUICK = TrainConfig(epochs=1, batch_size=16)


def config(name: str, strategy: str = "supervised", **options) -> RunConfig:
    strategy_config = StrategyConfig(name=strategy)
    return RunConfig(name=name, model=SMALL, strategy=strategy_config, train=QUICK, **options)


def make_experiment(out: Path, recipe: Recipe) -> Experiment:
    device, quiet = torch.device("cpu"), Progress(quiet=True)
    return Experiment(recipe, "demo:60", out, device, workers=1, progress=quiet)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Experiment:
    """Two teachers, trained."""
    recipe = Recipe(
        data={"size": 32},
        teachers=(config("one"), config("two")),
        students=(config("s", "vanilla"),),
    )
    experiment = make_experiment(tmp_path_factory.mktemp("experiment"), recipe)
    pipeline.train_teachers(experiment)
    return experiment


def rewrite(folder: Path, name: str, change) -> None:
    """Changes a JSON file of a run and its manifest with it, as somebody who means it would."""
    content = json.loads((folder / name).read_text())
    change(content)
    write_json(folder / name, content)
    write_manifest(folder, files_below(folder))


def test_the_best_teacher_on_validation_teaches(trained):
    student = trained.recipe.students[0]
    folders = {name: trained.out / "teachers" / name for name in ("one", "two")}
    originals = {n: (f / "metrics.jsonl").read_text() for n, f in folders.items()}
    for winner, loser in (("one", "two"), ("two", "one")):
        for name, top1 in ((winner, 90.0), (loser, 40.0)):
            row = json.loads(originals[name].splitlines()[0]) | {"val/top1": top1}
            (folders[name] / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        assert taught_by(trained, student) == (winner,)
    for name, text in originals.items():
        (folders[name] / "metrics.jsonl").write_text(text)


def test_a_teacher_of_other_classes_is_refused(trained):
    folder = trained.folder("one")
    kept = {n: (folder / n).read_bytes() for n in ("contract.json", "manifest.json")}
    rewrite(folder, "contract.json", lambda content: content["names"].reverse())
    with pytest.raises(UserError, match="classes"):
        pipeline.load_teacher(trained, "one")
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    pipeline.load_teacher(trained, "one")


def test_a_teacher_that_scores_otherwise_than_when_trained_is_refused(trained):
    """Mixed-up normalisation or classes make a teacher teach nonsense, with no error anywhere."""
    folder = trained.folder("two")
    log = (folder / "metrics.jsonl").read_text()
    row = json.loads(log) | {"val/top1": json.loads(log)["val/top1"] + 20.0}
    kept = (folder / "manifest.json").read_bytes()
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    write_manifest(folder, files_below(folder))
    with pytest.raises(UserError, match="on validation"):
        pipeline.load_teacher(trained, "two")
    (folder / "metrics.jsonl").write_text(log)
    (folder / "manifest.json").write_bytes(kept)


def test_a_teacher_of_the_other_task_is_refused(trained):
    folder = trained.folder("one")
    kept = {n: (folder / n).read_bytes() for n in ("contract.json", "manifest.json")}
    rewrite(folder, "contract.json", lambda content: content.update(task="multi"))
    with pytest.raises(UserError, match="its task is 'multi'"):
        pipeline.load_teacher(trained, "one")
    for name, content in kept.items():
        (folder / name).write_bytes(content)


def test_how_a_teacher_was_adjusted_is_told_by_its_run(trained):
    """Runs of before there was such an option were not adjusted."""
    folder, student = trained.folder("one"), config("s", "vanilla", teachers=("two", "one"))
    kept = {n: (folder / n).read_bytes() for n in ("config.json", "manifest.json")}
    assert list(pipeline.load_job(trained, student).teacher_adjustments) == [0.0, 0.0]

    def adjusted(content):
        content["run"]["train"]["logit_adjustment"] = 0.5

    rewrite(folder, "config.json", adjusted)
    job = pipeline.load_job(trained, student)
    assert list(job.teacher_adjustments) == [0.0, 0.5]
    assert job.teacher_offsets.shape == (2, 1, 3)
    rewrite(folder, "config.json", lambda c: c["run"]["train"].pop("logit_adjustment"))
    assert pipeline.load_job(trained, student).teacher_offsets is None
    for name, content in kept.items():
        (folder / name).write_bytes(content)


def test_a_run_whose_files_changed_is_refused(trained, tmp_path):
    import shutil

    folder = shutil.copytree(trained.folder("one"), tmp_path / "copy")
    load_run(folder)
    with (folder / "best.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"best\.safetensors"):
        load_run(folder)


def test_a_teacher_trained_anew_makes_its_students_stale(trained, tmp_path):
    import shutil

    out = shutil.copytree(trained.out, tmp_path / "copy")
    experiment = replace(trained, out=out)
    pipeline.train_students(experiment)
    for name in ("one", "two"):
        remove_folder(out / "teachers" / name)
    changed = replace(experiment, recipe=experiment.recipe.model_copy(update={"seed": 5}))
    pipeline.train_teachers(changed)
    with pytest.raises(UserError, match=r"inputs\.teachers"):
        pipeline.train_students(changed)
    pipeline.train_students(replace(changed, overwrite=True))


def test_two_at_once_train_a_run_once(tmp_path, monkeypatch):
    """Both trained into one directory, whose log then had every epoch twice."""
    trained = []

    def slow(classifier, job, device, progress):
        trained.append(job.config.name)
        time.sleep(0.3)  # enough, mostly, for the other to come; the test holds without
        write_json(job.folder / "config.json", job.describe())
        write_manifest(job.folder, ["config.json"])

    monkeypatch.setattr(pipeline, "fit", slow)
    recipe = Recipe(data={"size": 32}, teachers=(config("one"),))
    experiment = make_experiment(tmp_path, recipe)
    assert experiment.data.train.labels.size  # decoded once for both
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(pipeline.train_run, [experiment] * 2, recipe.teachers * 2))
    assert trained == ["one"]
    assert not list(tmp_path.rglob("*.lock"))


def test_self_training_gets_a_teacher_of_its_own_unless_one_is_named():
    alone, named = (
        config("alone", "self_training"),
        config("named", "self_training", teachers=("s",)),
    )
    library = config("library", "self_training", engine="kd_lib")
    recipe = Recipe(students=(config("s"), alone, named, library))
    assert [r.name for r in all_runs(recipe)] == ["s", "alone-self", "alone", "named", "library"]
    assert [has_self_teacher(r) for r in recipe.students] == [False, True, False, False]
    before = all_runs(recipe)[1]
    assert (before.model, before.train, before.strategy.name) == (
        alone.model,
        alone.train,
        "supervised",
    )


def test_a_student_without_anybody_to_teach_it_is_refused_at_once():
    with pytest.raises(UserError, match="nobody to teach"):
        check_plugins(Recipe(students=(config("s", "vanilla"),)))


def test_a_weights_file_that_is_not_there_is_refused_at_once():
    model = SMALL.model_copy(update={"pretrained": "/no/such/file.safetensors"})
    run_config = config("t").model_copy(update={"model": model})
    with pytest.raises(UserError, match=r"file\.safetensors"):
        check_plugins(Recipe(teachers=(run_config,)))


def test_an_unknown_engine_is_found_before_training():
    with pytest.raises(UserError, match=r"bench\.engines"):
        check_plugins(Recipe(bench=BenchConfig(engines=("fast",))))


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match=r"train\.precision"):
        make_accelerator(torch.device("cpu"), "fp16")
