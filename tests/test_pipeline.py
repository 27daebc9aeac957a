"""Which runs depend on which, and what is refused before a distillation starts."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.config import BenchConfig, ModelConfig, Recipe, RunConfig, StrategyConfig, TrainConfig
from distill.errors import UserError
from distill.files import (
    files_below,
    remove_folder,
    seal,
    verify_manifest,
    write_json,
    write_manifest,
)
from distill.models.inference import predict_logits
from distill.pipeline import experiment as experiment_module
from distill.pipeline import jobs, runs
from distill.pipeline import train as pipeline
from distill.pipeline.bench import opponent_file
from distill.pipeline.experiment import Experiment, write_description
from distill.pipeline.jobs import load_job, load_teacher, tolerance
from distill.pipeline.lr_finder import find_lr
from distill.pipeline.plan import check_opponents, check_plugins
from distill.pipeline.runs import all_runs, chosen_student, has_self_teacher, taught_by
from distill.progress import Progress
from distill.training.precision import resolve_precision
from distill.training.run_directory import open_run

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


@contextmanager
def changed(folder: Path, name: str, change) -> Iterator[None]:
    """A JSON or JSON-lines file of a run otherwise, and its manifest with it, for a while."""
    kept = {file: (folder / file).read_bytes() for file in (name, "manifest.json")}
    content = json.loads(kept[name].splitlines()[0] if name.endswith(".jsonl") else kept[name])
    change(content)
    (folder / name).write_text(json.dumps(content) + "\n")
    write_manifest(folder, files_below(folder))
    try:
        yield
    finally:
        for file, before in kept.items():
            (folder / file).write_bytes(before)


def test_the_best_teacher_on_validation_teaches(trained):
    student = trained.recipe.students[0]
    for winner, loser in (("one", "two"), ("two", "one")):
        with (
            changed(trained.folder(winner), "metrics.jsonl", lambda r: r.update({"val/top1": 90})),
            changed(trained.folder(loser), "metrics.jsonl", lambda r: r.update({"val/top1": 40})),
        ):
            assert taught_by(trained, student) == (winner,)


def mixed_up(content):
    content["names"].reverse()


def other_task(content):
    content["task"] = "multi"


def lucky(content):
    """Twenty points more than three of its nine validation images, the tolerance being two."""
    content["val/top1"] += 34.0


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("contract.json", mixed_up, "classes"),
        ("contract.json", other_task, "its task is 'multi'"),
        ("metrics.jsonl", lucky, "on validation"),
    ],
)
def test_a_teacher_that_is_not_what_it_was_is_refused(trained, file, change, said):
    """Mixed-up normalisation or classes make a teacher teach nonsense, with no error anywhere."""
    experiment = replace(trained, checked=set())
    with (
        changed(trained.folder("one"), file, change),
        pytest.raises(UserError, match=said),
    ):
        load_teacher(experiment, "one")
    load_teacher(experiment, "one")


def test_one_flipped_answer_of_few_does_not_refuse_a_teacher():
    """With 9 validation images one answer is 11 points; other kernels turn close ones round."""
    assert [tolerance(count) for count in (9, 100, 200, 5000)] == [200 / 9, 2.0, 1.0, 1.0]


def test_a_teacher_is_opened_and_checked_once(trained, monkeypatch):
    """Every student hashed every teacher's files and validated it again."""
    experiment = replace(trained, checked=set(), opened={})
    asked = []
    monkeypatch.setattr(jobs, "predict_logits", lambda *a: asked.append(a) or predict_logits(*a))
    monkeypatch.setattr(experiment_module, "open_run", lambda f: asked.append(f) or open_run(f))
    first = load_teacher(experiment, "one")
    assert load_teacher(experiment, "one") is not first  # each may do with it as it likes
    assert len(asked) == 2


def test_how_a_teacher_was_adjusted_is_told_by_its_run(trained):
    """Runs of before there was such an option were not adjusted."""
    folder, student = trained.folder("one"), config("s", "vanilla", teachers=("two", "one"))
    assert list(load_job(trained, student).teacher_adjustments) == [0.0, 0.0]
    with changed(folder, "config.json", lambda c: c["run"]["train"].update(logit_adjustment=0.5)):
        job = load_job(trained, student)
        assert list(job.teacher_adjustments) == [0.0, 0.5]
        assert job.teacher_offsets.shape == (2, 1, 3)
    with changed(folder, "config.json", lambda c: c["run"]["train"].pop("logit_adjustment")):
        assert load_job(trained, student).teacher_offsets is None


def test_a_run_whose_files_changed_is_refused(trained, tmp_path):
    import shutil

    folder = shutil.copytree(trained.folder("one"), tmp_path / "copy")
    open_run(folder)
    with (folder / "best.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"best\.safetensors"):
        open_run(folder)


def test_a_range_test_leaves_a_finished_run_as_it_is(trained, tmp_path):
    """Its files were in the manifest: made again, they made the run count as damaged."""
    import shutil

    out = shutil.copytree(trained.out, tmp_path / "copy")
    experiment, teacher = replace(trained, out=out), trained.recipe.teachers[0]
    remove_folder(out / "teachers" / "one")
    find_lr(experiment, teacher)
    pipeline.train_teachers(experiment)
    find_lr(experiment, teacher)
    open_run(out / "teachers" / "one")


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


def test_a_finished_experiment_lists_the_files_of_a_run_made_anew(trained, tmp_path):
    """And nothing that is damaged elsewhere, nor range tests and caches, which come and go."""
    import shutil

    out = shutil.copytree(trained.out, tmp_path / "copy")
    (out / "results.json").write_text("{}")
    seal(out)
    verify_manifest(out)
    find_lr(replace(trained, out=out), trained.recipe.teachers[0])
    (out / "results.json").write_text("[]")
    with (out / "teachers" / "two" / "best.safetensors").open("ab") as file:
        file.write(b"x")
    hotter = QUICK.model_copy(update={"lr": 0.1})
    changed = trained.recipe.teachers[0].model_copy(update={"train": hotter})
    recipe = trained.recipe.model_copy(update={"teachers": (changed,)})
    before = json.loads((out / "manifest.json").read_text())
    pipeline.train_teachers(replace(trained, out=out, recipe=recipe, overwrite=True))
    after = json.loads((out / "manifest.json").read_text())
    renewed = {name for name in before if before[name] != after[name]}
    assert renewed >= {f"teachers/one/{name}" for name in ("best.safetensors", "config.json")}
    assert all(name.startswith("teachers/one/") for name in renewed)
    assert before.keys() == after.keys()
    assert not any("lr_find" in name or name.startswith("cache/") for name in after)
    with pytest.raises(UserError, match=r"results\.json"):
        verify_manifest(out)


def test_classes_that_no_manifest_can_hold_do_not_stop_an_experiment(
    tmp_path, write_images, monkeypatch
):
    names = [f"{label}/{i}.jpg" for label in ("a;b", "c") for i in range(12)]
    said = []
    experiment = replace(
        make_experiment(tmp_path / "out", Recipe(data={"size": 32})),
        location=str(write_images(tmp_path / "images", names)),
    )
    monkeypatch.setattr(experiment.progress, "say", said.append)
    write_description(experiment)
    assert "a;b" in said[-1]
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    assert (tmp_path / "out" / "data.json").is_file()


def test_two_at_once_train_a_run_once(tmp_path, monkeypatch):
    """Both trained into one directory, whose log then had every epoch twice."""
    trained = []

    def slow(classifier, job, device, progress, after_epoch=None):
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


def test_nobody_to_teach_is_told_before_anything_is_trained():
    student = config("s", "vanilla", teachers=())
    with pytest.raises(UserError, match="nobody to teach"):
        check_plugins(Recipe(teachers=(config("t"),), students=(student,)))
    student = config("s", "vanilla", teachers=("best", "t"))
    with pytest.raises(UserError, match="nobody to teach"):
        check_plugins(Recipe(students=(config("t"), student)))


def test_a_student_that_teaches_another_is_not_the_one_that_ships(monkeypatch):
    """Of a large assistant and a small student the large one was shipped, as it scored higher."""
    chain = (config("assistant"), config("small", "vanilla", teachers=("assistant",)))
    experiment = make_experiment(Path("out"), Recipe(students=(*chain, config("other"))))
    asked: list[list[str]] = []
    monkeypatch.setattr(runs, "best_run", lambda _, names: asked.append(names) or names[0])
    assert chosen_student(experiment) == "other"
    assert asked == [["other", "small"]]


def test_a_weights_file_that_is_not_there_is_refused_at_once():
    model = SMALL.model_copy(update={"pretrained": "/no/such/file.safetensors"})
    run_config = config("t").model_copy(update={"model": model})
    with pytest.raises(UserError, match=r"file\.safetensors"):
        check_plugins(Recipe(teachers=(run_config,)))


def test_a_start_of_another_network_is_refused_at_once():
    """The traceback came after the first of them had been trained."""
    wide = {"model": SMALL.model_copy(update={"options": {"width": [4, 8], "hidden": 8}})}
    second = config("b", start="a").model_copy(update=wide)
    with pytest.raises(UserError, match=r"'a' is another network: .* does not fit"):
        check_plugins(Recipe(students=(config("a"), second)))
    check_plugins(Recipe(students=(config("a"), config("b", start="a"))))


def test_an_opponent_that_there_is_not_is_told_before_anything_is_trained():
    """It was told after training and export, and there was no table."""
    check_opponents(Recipe(bench=BenchConfig(opponents=("timm/resnet18",))))
    with pytest.raises(UserError, match="resnet5") as caught:
        check_opponents(Recipe(bench=BenchConfig(opponents=("timm/resnet5",))))
    assert caught.value.where == "bench.opponents"


def test_networks_of_one_name_have_files_of_their_own():
    """The later one was written over the earlier one, and was timed under both names."""
    taken = ["student.int8.onnx", opponent_file("timm/resnet50", [])]
    assert taken[1] == "resnet50.onnx"
    assert opponent_file("torchvision/resnet50", taken) == "torchvision-resnet50.onnx"


def test_features_of_one_image_at_a_time_are_refused_at_once():
    single = {"train": QUICK.model_copy(update={"batch_size": 1})}
    one = config("s", "feature", teachers=("t",)).model_copy(update=single)
    with pytest.raises(UserError, match="no variance"):
        check_plugins(Recipe(teachers=(config("t"),), students=(one,)))


def test_an_unknown_engine_is_found_before_training():
    with pytest.raises(UserError, match=r"bench\.engines"):
        check_plugins(Recipe(bench=BenchConfig(engines=("fast",))))


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match=r"train\.precision"):
        resolve_precision("fp16", torch.device("cpu"))


def test_one_image_a_step_is_refused_before_anything_is_decoded(tmp_path, distill):
    command = ("run", "students/compact_demo.toml", "--data", "demo:60", "--out", tmp_path / "out")
    status, _, err = distill(*command, "data.size=16", "student.train.batch_size=1")
    assert status == 2
    assert "student.train.batch_size" in err
    assert not (tmp_path / "out").exists()
