"""`distill ablate`: which variants a recipe has, and what they are found to be worth."""

import json

import numpy as np
import pytest
from small_recipe import RECIPE

from distill.errors import UserError
from distill.files import read_json
from distill.pipeline.ablate import make_ablation
from distill.pipeline.runs import all_runs
from distill.recipe import load_recipe

SECOND = """
[[teachers]]
name = "two"
model = { name = "baseline_cnn", pretrained = "w.safetensors" }
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text=RECIPE, overrides=None):
        file = tmp_path / "mine.toml"
        file.write_text(text)
        return load_recipe(file, overrides)

    return write


def tried(ablation) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for variant in ablation.variants:
        found.setdefault(variant.factor, []).append(variant.value)
    return found


def test_what_is_tried_of_a_recipe_is_what_it_has(recipe):
    found = make_ablation(recipe(), (), 1, False)
    assert tried(found) == {
        "teacher": ["nobody"],
        "views": ["1"],  # of two epochs there are no four
        "temperature": ["1.0", "2.0", "8.0"],
        "weight": ["0.5", "1.0"],
        "epochs": ["1", "4"],
    }
    assert len({run.name for run in all_runs(found.recipe)}) == 1 + 1 + 9


def test_one_thing_is_changed_and_nothing_else(recipe):
    loaded = recipe()
    found = make_ablation(loaded, (), 1, True)
    (base,) = loaded.students
    before = base.model_dump()
    for variant in found.variants:
        after = variant.student.model_dump()
        changed = {key for key in before if after[key] != before[key]} - {"name"}
        if variant.value == "nobody":
            assert {"strategy"} < changed <= {"strategy", "train", "cache"}
            assert variant.student.train.views == base.cached_views
        else:
            assert len(changed) == 1, variant
    assert "unlabelled" in tried(found)


def test_without_a_cache_its_views_are_nothing_to_try(recipe):
    found = make_ablation(recipe(overrides=["student.cache.use=false"]), (), 1, False)
    assert set(tried(found)) == {"teacher", "temperature", "weight", "epochs"}


def test_teachers_one_by_one_and_from_a_random_start(recipe):
    loaded = recipe(RECIPE + SECOND)
    found = make_ablation(loaded, ["teacher"], 1, False)
    assert tried(found) == {"teacher": ["nobody", "one", "two", "two from a random start"]}
    taught = {variant.value: variant.student.teachers for variant in found.variants}
    assert taught["one"] == ("one",)
    assert taught["two from a random start"] == ("two-plain",)
    plain = next(teacher for teacher in found.recipe.teachers if teacher.name == "two-plain")
    assert plain.model.pretrained is False


def test_wishes_name_values_and_keys(recipe):
    wishes = ["temperature=1,4.0", "train.lr=1e-2", "temperature=9", "epochs=3"]
    found = make_ablation(recipe(), wishes, 2, False)
    assert tried(found) == {"temperature": ["1", "9"], "train.lr": ["1e-2"], "epochs": ["3"]}
    names = [run.name for run in found.recipe.students]
    assert names[:5] == [
        "small",
        "small-temperature-1",
        "small-temperature-9",
        "small-train.lr-1e-2",
        "small-epochs-3",
    ]
    assert names[5:] == [f"{name}-seed1" for name in names[:5]]
    assert {run.seed for run in found.recipe.students[5:]} == {1}


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("teacher=three", "no teacher 'three'"),
        ("colour", "no factor 'colour'"),
        ("train.lr", "nothing else to try of train.lr"),
        ("strategy.colour=1", "colour"),
        ("temperature=-1", "temperature"),
        ("epochs=many", "epochs"),
        ("temperature=4", "nothing else to try of temperature"),
    ],
)
def test_wishes_that_make_no_sense(recipe, wish, words):
    with pytest.raises(UserError, match=words):
        make_ablation(recipe(), [wish], 1, False)


def test_a_student_that_nobody_teaches_has_nothing_to_ablate(recipe):
    with pytest.raises(UserError, match="nobody teaches small"):
        make_ablation(recipe(overrides=["student.strategy={name='supervised'}"]), (), 1, False)


def test_the_command_tells_what_each_change_is_worth(tmp_path, recipe, photos, distill):
    """On validation alone, in a table, in a file, and once."""
    recipe()
    out = tmp_path / "out"
    wishes = ("--vary", "teacher", "--vary", "epochs=1", "--seeds", 2)
    command = ("ablate", tmp_path / "mine.toml", "--data", photos, "--out", out, *wishes)
    status, said, err = distill(*command, "--json")
    assert status == 0, err
    record = read_json(out / "ablation.json")
    assert (record["base"], record["split"], record["score"]) == ("small", "val", "top1")
    assert [(row["factor"], row["value"]) for row in record["rows"]] == [
        ("teacher", "nobody"),
        ("epochs", "1"),
    ]
    for row in record["rows"]:
        own, base = np.mean(row["scores"]), np.mean(record["scores"])
        assert row["verdict"]["difference_points"] == pytest.approx(own - base)
        assert (row["verdict"]["seeds"], len(row["scores"])) == (2, 2)
        assert row["verdict"]["p_holm"] is not None
    assert json.loads(said.splitlines()[-1])["rows"] == record["rows"]
    assert not (out / "results.json").exists()
    assert not list(out.rglob("test_correct.npy"))
    before = {place: place.stat().st_mtime_ns for place in out.rglob("best.safetensors")}
    status, said, err = distill(*command)
    assert status == 0
    assert "small-teacher-nobody: done before" in err
    assert "small with one thing changed" in said
    assert {place: place.stat().st_mtime_ns for place in out.rglob("best.safetensors")} == before
