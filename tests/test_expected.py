"""How long a recipe of one's own will take, and mistakes that are told before anything is timed."""

import pytest
import torch
from small_recipe import RECIPE

from distill.errors import UserError
from distill.files import read_json
from distill.pipeline.opening import Settings, open_experiment
from distill.pipeline.stages import ALL_STAGES, run_stages
from distill.planner import expected
from distill.planner.facts import Facts
from distill.planner.forecast import REPORT_S, forecast
from distill.planner.pace import Pace, take_pace, take_paces
from distill.progress import Progress
from distill.recipe import load_recipe

FACTS = Facts(200, 2, {"train": 140, "val": 30, "test": 30}, 100, 100, 64, 0.01)
PACE = Pace(train=0.1, frozen=0.05, validate=0.02, answer=0.04, spread=0.1)
RUN_S = 2 * (140 * 0.1 + 30 * 0.02)  # the student: two epochs, a validation after each


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


@pytest.mark.parametrize(
    ("overrides", "unlabelled", "seconds"),
    [
        ([], 0, RUN_S + 2 * 140 * 0.04),
        (["seeds=3"], 0, 3 * (2 * RUN_S + 2 * 140 * 0.04)),  # each beside the same student alone
        ([], 100, RUN_S + 2 * 100 * 0.1 + 2 * 240 * 0.04),
        (["student.unlabelled=false"], 100, RUN_S + 2 * 140 * 0.04),
        (["student.cache.use=false"], 0, RUN_S + 2 * 140 * 0.04),  # asked in each of two epochs
        (["student.strategy.name=self_training"], 0, 2 * RUN_S + 2 * 140 * 0.04),
    ],
)
def test_students_take_what_all_of_their_runs_take(recipe, overrides, unlabelled, seconds):
    made = load_recipe(str(recipe), overrides)
    found = forecast(made, FACTS, {"one": PACE, "small": PACE}, unlabelled)
    assert found.seconds["student"] == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("overrides", "networks"),
    [([], 2), (["seeds=3"], 7), (["student.strategy.name=self_training"], 3)],
)
def test_the_report_takes_what_every_network_takes_on_test(recipe, overrides, networks):
    made = load_recipe(str(recipe), overrides)
    found = forecast(made, FACTS, {"one": PACE, "small": PACE})
    assert found.seconds["report"] == pytest.approx(REPORT_S + networks * 30 * 0.02)


@pytest.mark.parametrize("stages", [ALL_STAGES, ("check", "student")])
def test_a_recipe_without_students_is_told_before_anything_is_timed(recipe, stages, tmp_path):
    text = RECIPE.partition("[[students]]")[0]
    recipe.write_text(text)
    settings = Settings(out=tmp_path / "out")
    experiment = open_experiment(str(recipe), None, "demo:60", settings)
    with pytest.raises(UserError, match="the recipe has no student"):
        run_stages(experiment, stages, False, False, expected.with_forecast)
    run_stages(experiment, ("check", "teacher"), True, False)  # those of it can be trained


def test_brief_times_need_no_weights(recipe):
    made = load_recipe(str(recipe), ["teacher.model.pretrained=nowhere.safetensors"])
    assert set(take_paces(made, ("a", "b"), torch.device("cpu"), Progress(quiet=True), brief=True))
    with pytest.raises(UserError, match="nowhere"):
        take_paces(made, ("a", "b"), torch.device("cpu"), Progress(quiet=True))


def test_a_recipe_is_told_and_keeps_its_forecast(recipe, distill, tmp_path, monkeypatch):
    timed = []

    def paces(made, classes, device, progress, brief):
        timed.append(made)
        return {run.name: PACE for run in (*made.teachers, *made.students)}

    monkeypatch.setattr(expected, "take_paces", paces)
    out = tmp_path / "out"
    command = ("run", recipe, "--data", "demo:60", "--out", out, "--no-bench")
    command = (*command, "export.targets=onnx_fp32")
    status, _, err = distill(*command)
    assert status == 0, err
    assert "about " in err
    assert "all that is left" in err
    stages = {"check", "teacher", "student", "export", "report"}
    assert set(read_json(out / "plan.json")["predicted_s"]) == stages
    assert set(read_json(out / "results.json")["plan"]["predicted_s"]) == stages
    for overrides, times in (([], 1), (["student.train.epochs=3"], 2)):
        options = ["export.targets=onnx_fp32", *overrides]
        again = open_experiment(str(recipe), options, "demo:60", Settings(out=out))
        found = expected.with_forecast(again, ALL_STAGES[:-1])
        assert (set(found.plan["predicted_s"]), len(timed)) == (stages, times)
    status, _, err = distill("run", "demo:60", "--out", out)
    assert status == 2
    assert "a recipe" in err


def test_a_network_that_several_train_alike_is_timed_once(recipe, monkeypatch):
    monkeypatch.setattr("distill.planner.pace.SECONDS", 0.01)
    recipe.write_text(RECIPE + RECIPE[RECIPE.index("[[students]]") :].replace("small", "again"))
    timed = []

    def counted(classifier, config, *arguments):
        timed.append(config.name)
        return take_pace(classifier, config, *arguments)

    monkeypatch.setattr("distill.planner.pace.take_pace", counted)
    made, cpu, quiet = load_recipe(str(recipe)), torch.device("cpu"), Progress(quiet=True)
    paces = take_paces(made, ("a", "b"), cpu, quiet)
    assert timed == ["one", "small"]
    assert paces["small"] == paces["again"]


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--unlabelled", "/no/such/pictures"), "/no/such/pictures"),
        (("--also", "/no/such/folder"), "/no/such/folder"),
        (("track=nobody",), "nobody"),
        (("export.targets=onnx_int3",), "onnx_int3"),
        (("--out", "taken"), "name another --out"),
    ],
)
def test_mistakes_are_told_before_anything_is_timed(
    planned, arguments, said, recipe, photos, distill, tmp_path, monkeypatch
):
    def never(*arguments):
        raise AssertionError("timed")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr("distill.planner.plan.take_paces", never)
    monkeypatch.setattr(expected, "take_paces", never)
    what = (photos,) if planned else (recipe, "--data", photos)
    status, _, err = distill("run", *what, *arguments)
    assert status == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
