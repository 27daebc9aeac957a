"""Plans: from a folder and a machine to a recipe, its schedule and the time that it will take."""

import io
import json
import time
import tomllib
from dataclasses import replace

import pytest
import torch
from PIL import Image

from distill.config import DataConfig, Recipe, RunConfig
from distill.data.prepare import input_spec
from distill.data.sources import Item, Source
from distill.errors import UserError
from distill.files import read_json
from distill.models.classifier import Classifier, build_classifier
from distill.pipeline.plan import check_plugins
from distill.planner import plan as plan_module
from distill.planner.facts import Facts, look, sample, split_counts
from distill.planner.forecast import forecast
from distill.planner.pace import Pace, take_pace
from distill.planner.plan import Draft, at_size, describe, make_plan, open_draft
from distill.planner.preset import Amount, preset_names, read_preset
from distill.planner.request import Request
from distill.planner.schedule import batch_size, epochs_of, scheduled, views_of
from distill.progress import Progress
from distill.recipe import check_table, load_recipe

QUIET, CPU = Progress(quiet=True), torch.device("cpu")
FACTS = Facts(
    images=200,
    classes=2,
    counts={"train": 140, "val": 30, "test": 30},
    smallest=100,
    largest=100,
    short_side=64,
    look_s=0.01,
)


@pytest.fixture
def draft(tiny_preset, monkeypatch):
    """A plan in the making, for networks that take a tenth of a second per image of 64 px."""

    def measure(self, size):
        recipe, one = self.recipe(size), at_size(Pace(0.1, 0.05, 0.02, 0.04, 0.1), 64, size)
        return {run.name: one for run in (*recipe.teachers, *recipe.students)}

    monkeypatch.setattr(Draft, "measure", measure)

    def make(minutes: float, *overrides: str) -> Draft:
        preset, table = read_preset("balanced", overrides)
        table.setdefault("data", {})
        source = Source("x", ("a", "b"), (), lambda item: b"", "")
        preset = preset.model_copy(update={"minutes": minutes})
        return Draft(source, FACTS, preset, table, CPU, QUIET, time.monotonic())

    return make


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [
        (42, 8, 20),  # 5 steps an epoch: 60 epochs are 300 steps, 20 are the most
        (223, 16, 20),  # 13 steps an epoch, 24 epochs
        (2100, 32, 5),  # 65 steps an epoch: 5 epochs are the first 300 steps
        (140_000, 32, 3),
    ],
)
def test_few_images_and_many_train_for_about_as_many_steps(images, batch, epochs):
    assert batch_size(images) == batch
    assert epochs_of(Amount(steps=300, epochs=(3, 20)), images, batch, 1.0) == epochs


def test_few_images_are_seen_in_more_views():
    """42 photographs in 32 views instead of 8 gained 1.8 points (benchmarks/LOG.md)."""
    assert [views_of(images, 60, 8) for images in (20, 42, 221, 2100)] == [60, 48, 10, 8]
    assert views_of(2100, 60, 16) == 16
    assert views_of(42, 6, 8) == 6


def test_images_without_labels_count_for_students(draft, tiny_preset):
    """A plan was made as if there were none: 102 s for what took two hours."""
    preset, table = read_preset("balanced")
    few, many = (scheduled(table, preset, 140, 1.0, more) for more in (0, 50_000))
    assert few["teachers"] == many["teachers"]
    (student,) = many["students"]
    assert student["train"]["batch_size"] > few["students"][0]["train"]["batch_size"]
    assert student["train"]["epochs"] == preset.student.epochs[0]
    one, other = (replace(draft(600), unlabelled=more) for more in (0, 5_000))
    paces = one.measure(64)
    seconds = [d.forecast(d.recipe(64), paces).seconds["student"] for d in (one, other)]
    assert seconds[1] > 5 * seconds[0]


def test_what_does_not_run_takes_no_time(draft):
    with_all, without = draft(60), replace(draft(60), stages=("check", "teacher", "student"))
    paces = with_all.measure(64)
    assert "bench" in with_all.forecast(with_all.recipe(64), paces).seconds
    found = without.forecast(without.recipe(64), paces).seconds
    assert list(found) == ["check", "teacher", "student"]


def test_a_schedule_leaves_alone_what_is_set(tiny_preset):
    preset, table = read_preset(
        "balanced", ["student.train.epochs=9", "teacher.train.batch_size=4"]
    )
    result = scheduled(table, preset, 140, 1.0)
    assert result["students"][0]["train"]["epochs"] == 9
    assert [run["train"]["batch_size"] for run in result["teachers"]] == [4, 4, 4]
    # 35 steps an epoch: one epoch has the 6 steps, and nothing can be frozen then
    assert result["teachers"][0]["train"]["epochs"] == 1
    assert result["teachers"][0]["transfer"]["freeze_epochs"] == 0
    assert "epochs" not in table["teachers"][0]["train"]


def test_a_forecast_adds_up(tiny_preset):
    """Two teachers of 1 epoch, a student of 2 that sees 2 views of the cache; by hand, in s."""
    preset, table = read_preset("balanced")
    table["teachers"] = table["teachers"][:2]
    recipe = check_table(Recipe, scheduled(table, preset, 140, 1.0), "test")
    assert [run.train.epochs for run in (*recipe.teachers, *recipe.students)] == [1, 1, 2]
    pace = Pace(train=0.1, frozen=0.05, validate=0.02, answer=0.04, spread=0.1)
    found = forecast(
        recipe, FACTS, {run.name: pace for run in (*recipe.teachers, *recipe.students)}
    )
    assert found.seconds["check"] == pytest.approx(200 * 0.01)
    assert found.seconds["teacher"] == pytest.approx(2 * (140 * 0.1 + 30 * 0.02))
    assert found.seconds["student"] == pytest.approx(2 * 140 * 0.04 + 2 * (140 * 0.1 + 30 * 0.02))
    low, high = found.range_s
    assert low < found.total < high


def test_time_enough_keeps_the_steps_and_the_largest_size(draft):
    recipe, record = draft(60).decide()
    assert recipe.data.size == 64
    assert [teacher.name for teacher in recipe.teachers] == ["small", "smaller"]
    assert set(record["predicted_s"]) == {
        "check",
        "teacher",
        "student",
        "export",
        "report",
        "bench",
    }


def test_less_time_takes_fewer_steps_then_smaller_images_then_one_teacher(draft):
    wide = ("student.train.batch_size=32",)
    plenty, _ = draft(60, "data.size=64", *wide).decide()
    seconds = sum(draft(60, "data.size=64", *wide).decide()[1]["predicted_s"].values())
    fewer, record = draft(0.9 * seconds / 60, "data.size=64", *wide).decide()
    assert plenty.students[0].train.epochs >= fewer.students[0].train.epochs
    smaller, _ = draft(0.5 * seconds / 60).decide()
    assert smaller.data.size < 64
    least, record = draft(0.01).decide()
    assert least.data.size == 16
    assert len(least.teachers) == 1
    assert any("too few" in note for note in record["notes"])
    assert "left out: there is no time to train smaller" in record["notes"]
    asked_for = replace(draft(0.01), teachers_given=True)
    assert len(asked_for.decide()[0].teachers) == 2


def test_what_planning_took_is_no_longer_there_to_train(draft):
    whole = draft(10)
    late = replace(whole, begun=whole.begun - 9 * 60)
    assert whole.limit_s() == pytest.approx(0.9 * 600, abs=5)
    assert late.limit_s() == pytest.approx(0.9 * 60, abs=5)
    assert late.decide()[0].data.size < whole.decide()[0].data.size


def test_what_the_command_line_sets_stays(draft):
    recipe, _ = draft(0.01, "data.size=48", "student.train.epochs=7").decide()
    assert recipe.data.size == 48
    assert recipe.students[0].train.epochs == 7


def test_images_are_not_blown_up(draft):
    assert replace(draft(60), facts=replace(FACTS, short_side=40)).sizes == [32, 16]
    assert replace(draft(60), facts=replace(FACTS, short_side=10)).sizes == [16]


def test_teachers_without_weights_are_left_out(draft, monkeypatch):
    def no_first(model):
        if model.options["width"] == [8, 8]:
            return UserError("no pretrained weights for small", "model.pretrained", "install them")
        return None

    monkeypatch.setattr(plan_module, "can_load", no_first)
    recipe, record = draft(60).decide()
    assert [teacher.name for teacher in recipe.teachers] == ["smaller", "third"]
    assert "left out: no pretrained weights for small" in record["notes"]


def test_without_any_weights_it_says_what_to_do(draft, monkeypatch):
    def never(model):
        return UserError(f"no pretrained weights for {model.name}", None, "install them")

    monkeypatch.setattr(plan_module, "can_load", never)
    with pytest.raises(UserError, match=r"baseline_cnn.*install them"):
        draft(60).decide()


def test_teachers_can_be_named(tiny_preset):
    preset, table = read_preset(
        "balanced", ["teacher.train.epochs=4"], ["timm/resnet10t", "compact"]
    )
    assert preset.teachers == 2
    assert [run["name"] for run in table["teachers"]] == ["resnet10t", "compact"]
    assert table["teachers"][0]["model"] == {"name": "timm/resnet10t", "pretrained": True}
    assert table["teachers"][1]["train"] == {"lr": 1e-3, "epochs": 4}


def test_two_weights_of_one_network_have_names_of_their_own(tiny_preset):
    named = ["timm/resnet50.a1_in1k", "timm/resnet50.tv_in1k", "torchvision/resnet50", "compact"]
    _, table = read_preset("balanced", [], named)
    names = [run["name"] for run in table["teachers"]]
    assert names == ["resnet50", "resnet50-2", "resnet50-3", "compact"]


@pytest.mark.parametrize(
    ("overrides", "option"), [([], "sampling"), (["data.store=stream"], "class_weights")]
)
def test_uneven_classes_are_balanced_in_a_way_that_their_files_allow(
    tiny_preset, overrides, option, monkeypatch
):
    """Images that are read file by file are not drawn at will."""
    labels = [0] * 60 + [1] * 10
    items = tuple(Item(f"{i}", label) for i, label in enumerate(labels))
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    source = Source("x", ("a", "b"), items, lambda item: buffer.getvalue(), "0", shard_of=str)
    monkeypatch.setattr(plan_module, "open_source", lambda location, task: source)
    made = open_draft(Request("x", overrides=tuple(overrides)), CPU, QUIET)
    for teacher in made.recipe(32).teachers:
        assert getattr(teacher.train, option) == "balanced"
        check_plugins(made.recipe(32))
    assert f"train.{option}" in "".join(describe(made.recipe(32), made.facts))


@pytest.mark.parametrize(("shards", "most"), [(None, 96), (1000, 6)])
def test_a_sample_is_of_few_shards(shards, most):
    """All of a shard is read for one image: a look at one of each told minutes of hours."""
    items = tuple(Item(f"{i}", 0) for i in range(96_000))
    shard_of = None if shards is None else lambda name: str(int(name) // shards)
    source = Source("x", ("a",), items, lambda item: b"", "0", shard_of=shard_of)
    found = sample(source, 96)
    assert len(found) == 96
    assert len({(shard_of or str)(item.name) for item in found}) <= most
    assert max(int(item.name) for item in found) > 90_000


@pytest.mark.parametrize("named", [(), ("timm/resnet10t", "timm/lcnet_035")])
def test_an_override_of_one_teacher_leaves_the_others(named):
    _, table = read_preset("balanced", [], named)
    first, *others = (run["name"] for run in table["teachers"])
    _, table = read_preset("balanced", [f"teachers.{first}.train.lr=0.5"], named)
    rates = {run["name"]: run["train"]["lr"] for run in table["teachers"]}
    assert rates == {first: 0.5, **dict.fromkeys(others, 5e-4)}


def test_a_source_is_looked_at(image_folder):
    from distill.data.sources import open_source

    source = open_source(str(image_folder))
    facts = look(source, DataConfig(), 1)
    assert (facts.images, facts.classes, facts.short_side) == (16, 2, 16)
    assert (facts.smallest, facts.largest) == (8, 8)
    assert facts.counts == {"train": 12, "val": 2, "test": 2}  # 15 % of 16 are 2.4
    assert facts.look_s > 0


def test_given_splits_are_counted_and_missing_ones_taken_from_train():
    splits = ["train"] * 80 + ["test"] * 20
    items = tuple(Item(str(n), 0, split) for n, split in enumerate(splits))
    source = Source("x", ("a",), items, lambda item: b"", "")
    assert split_counts(source, DataConfig()) == {"train": 68, "val": 12, "test": 20}
    anew = split_counts(source, DataConfig(split="grouped"))
    assert anew == {"train": 70, "val": 15, "test": 15}


def network(config: RunConfig, recipe: Recipe, classes: tuple[str, ...]) -> Classifier:
    spec = input_spec(recipe.data)
    return build_classifier(config.model, classes, spec, task=recipe.data.task)


def test_pace_is_of_the_loop_that_trains(tiny_preset, monkeypatch):
    monkeypatch.setattr("distill.planner.pace.SECONDS", 0.01)
    preset, table = read_preset("balanced", ["data.size=16"])
    recipe = check_table(Recipe, scheduled(table, preset, 140, 1.0), "test")
    for task in ("single", "multi"):
        data = recipe.data.model_copy(update={"task": task})
        one = recipe.model_copy(update={"data": data})
        config = recipe.students[0]
        pace = take_pace(network(config, one, ("a", "b", "c")), config, one, CPU)
        assert all(value > 0 for value in pace)
        assert pace.validate < pace.train


def test_networks_of_more_classes_than_images_of_noise_are_timed(tiny_preset, monkeypatch):
    """Where classes are weighed by their sizes, the plan said that the data had none of some."""
    monkeypatch.setattr("distill.planner.pace.SECONDS", 0.01)
    weighed = ["student.train.class_weights=balanced", "student.train.logit_adjustment=1.0"]
    weighed.append("student.train.sampling=balanced")
    preset, table = read_preset("balanced", ["data.size=16", *weighed])
    recipe = check_table(Recipe, scheduled(table, preset, 140, 1.0), "test")
    config, classes = recipe.students[0], tuple(f"c{number:03}" for number in range(300))
    assert take_pace(network(config, recipe, classes), config, recipe, CPU).train > 0


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_a_recipe(name):
    preset, table = read_preset(name)
    table = scheduled(table, preset, 223, 1.0)
    table["data"] = {"size": preset.sizes[-1]}
    recipe = check_table(Recipe, table, name)
    assert len(recipe.teachers) >= preset.teachers >= 1
    check_plugins(recipe)


def test_teachers_see_rare_classes_as_often(tiny_preset, write_images, tmp_path):
    """Of 8 photographs beside 300, none was found; 36 of 100 then (benchmarks/LOG.md)."""
    names = [f"{label}/{i}.jpg" for label, n in (("cat", 20), ("dog", 4)) for i in range(n)]
    folder = str(write_images(tmp_path / "images", names))
    draft = open_draft(Request(folder), CPU, QUIET)
    assert (draft.facts.smallest, draft.facts.largest) == (4, 20)
    recipe = draft.recipe(16)
    assert {teacher.train.sampling for teacher in recipe.teachers} == {"balanced"}
    assert recipe.students[0].train.sampling == "natural"
    assert any("4 to 20 images" in note for note in describe(recipe, draft.facts))
    own = ("teacher.train.class_weights=balanced",)
    recipe = open_draft(Request(folder, overrides=own), CPU, QUIET).recipe(16)
    assert recipe.teachers[0].train.sampling == "natural"


def test_a_preset_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"no preset 'best'.*accurate, balanced, fast"):
        read_preset("best")


def test_a_dry_run_prints_a_recipe_and_writes_nothing(
    tiny_preset, photos, distill, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, _ = distill(
        "run", str(photos), "--dry-run", "--minutes", "5", "--out", tmp_path / "out"
    )
    assert status == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "about" in out
    assert tomllib.loads(out)["data"]["size"] == 32
    (tmp_path / "plan.toml").write_text(out)
    assert len(load_recipe(tmp_path / "plan.toml").teachers) == 2


def test_a_folder_is_all_it_takes(tiny_preset, photos, distill, tmp_path, monkeypatch):
    """`distill run FOLDER` ends with results and times; repeated, nothing is new."""
    out = tmp_path / "out"
    command = ("run", str(photos), "--out", str(out), "--json")
    status, stdout, err = distill(*command)
    assert status == 0, err
    results = json.loads(stdout.splitlines()[-1])
    stages = {"check", "teacher", "student", "export", "report", "bench"}
    assert set(results["plan"]["predicted_s"]) == set(results["plan"]["real_s"]) == stages
    low, high = results["plan"]["predicted_range_s"]
    assert low < sum(results["plan"]["predicted_s"].values()) < high
    assert results["plan"] == read_json(out / "results.json")["plan"]
    assert load_recipe(out / "recipe.toml").data.size == 32
    assert "plan.json" in read_json(out / "manifest.json")

    def again(*arguments):
        raise AssertionError("planned again")

    monkeypatch.setattr("distill.planner.plan.make_plan", again)
    status, _, err = distill(*command)
    assert status == 0, err
    assert err.count("done before, kept") >= 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--teacher", "timm/resnet5"), "did you mean resnet50"),
        (("student.train.class_weights.no_maks=2",), "did you mean no_mask?"),
        (("views.per_class.no_maks.blur=0.5",), "did you mean no_mask?"),
        (("--out", "PHOTOS"), "a folder of pictures"),
    ],
)
@pytest.mark.parametrize("smoke", [(), ("--smoke",)])
def test_a_dry_run_refuses_what_the_run_would(
    wrong, words, smoke, tiny_preset, photos, distill, monkeypatch
):
    """Class names were looked at by the run alone, and of a teacher in a smoke run nothing."""
    given = [str(photos) if part == "PHOTOS" else part for part in wrong]
    status, out, err = distill("run", str(photos), "--dry-run", *smoke, *given)
    assert (status, out, words in err) == (2, "", True), err


def test_classes_that_are_too_small_are_told_of_before_networks_are_timed(
    tiny_preset, tmp_path, distill, monkeypatch
):
    def too_late(*arguments):
        raise AssertionError("timed")

    monkeypatch.setattr("distill.planner.plan.take_paces", too_late)
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "few" / name / "1.png")
    status, _, err = distill("run", str(tmp_path / "few"), "--out", str(tmp_path / "out"))
    assert (status, "too few to split" in err) == (2, True), err


def test_a_plan_is_made_anew_for_other_wishes(tiny_preset, photos, tmp_path):
    request = Request(str(photos), smoke=True)
    plan = make_plan(request, CPU, QUIET)
    assert plan_module.kept_plan(request, tmp_path) is None
    (tmp_path / "plan.json").write_text(json.dumps(plan.record))
    (tmp_path / "recipe.toml").write_text(plan.toml())
    assert plan_module.kept_plan(request, tmp_path) == plan
    tracked = plan_module.kept_plan(replace(request, overrides=("track=wandb",)), tmp_path)
    assert tracked is not None  # whoever is told of the runs, they are the same
    assert tracked.recipe == plan.recipe.model_copy(update={"track": ("wandb",)})
    other = replace(request, minutes=3.0)
    assert plan_module.kept_plan(other, tmp_path) is None
    (tmp_path / "teachers").mkdir()  # something was trained: nobody times networks in vain
    with pytest.raises(
        UserError, match=r"minutes.*distill run .*recipe\.toml --data .*--overwrite"
    ):
        plan_module.kept_plan(other, tmp_path)
    assert plan_module.kept_plan(other, tmp_path, overwrite=True) is None


def test_teachers_are_compared_by_their_students(tiny_preset, photos, distill, tmp_path):
    out = tmp_path / "compared"
    status, stdout, err = distill("teachers", str(photos), "--out", str(out), "--json")
    assert status == 0, err
    rows = json.loads(stdout.splitlines()[-1])["teachers"]
    assert {row["teacher"] for row in rows} == {"small", "smaller", "third"}
    assert [row["student_val"] for row in rows] == sorted(
        (row["student_val"] for row in rows), reverse=True
    )
    config = read_json(out / "students" / "by-third" / "config.json")
    assert list(config["inputs"]["teachers"]) == ["third"]
    assert rows == read_json(out / "teachers.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "x.toml"], "--data"),
        (["run", "x.toml", "--data", "demo:60", "--minutes", "3"], "--minutes is for plans"),
        (["run", "photos", "--data", "demo:60"], "not a recipe"),
        (["run", "demo:60", "--preset", "best"], "no preset 'best'"),
        (["run", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_a_wrong_request_is_one_line(arguments, said, distill):
    status, _, err = distill(*arguments)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert said in err


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("photos/", "photos"),
        ("data/faces.csv", "faces"),
        ("shards/train-{000..003}.tar", "shards"),
        ("s3://bucket/tars/*.tar", "tars"),
        ("s3://bucket/photos", "photos"),
    ],
)
def test_a_run_is_called_as_its_data(location, name):
    assert Request(location).name == name
