"""Recipes, options and command lines of nonsense: one line each, and nothing that never ends."""

from __future__ import annotations

import contextlib

import pytest

from distill.errors import UserError
from distill.recipe import load_recipe, recipe_of

RECIPE = b"""
[data]
size = 32
[[teachers]]
name = "teacher"
model = { name = "baseline_cnn", options = { width = [8, 8] } }
[student]
train = { epochs = 3, lr = 1e-3 }
[[students]]
name = "one"
model.name = "compact"
strategy = { name = "vanilla", temperature = 2.0 }
[export]
targets = ["onnx_fp32"]
"""
WORDS = (
    *("run", "check", "teacher", "student", "export", "report", "evaluate", "predict", "inspect"),
    *("bench", "options", "cache", "build", "--out", "--data", "--seed", "--workers", "--json"),
    *(
        "--split",
        "--device",
        "cuda:99",
        "demo:60",
        "demo:-1",
        "nowhere",
        "",
        "-1",
        "--",
        "=",
        "a=b",
    ),
    *("student.train.lr=nan", "data.size=0", "x" * 5000, "\x1b[2J", "a\nb", "ü", "--dry-run"),
)


def test_mutated_recipes_are_recipes_or_errors(tmp_path, hostile):
    file = tmp_path / "recipe.toml"
    for rng in hostile.tries(150):
        file.write_bytes(hostile.mutated(RECIPE, rng))
        with contextlib.suppress(UserError):
            load_recipe(file)


@pytest.mark.parametrize(
    "override",
    [
        "student.strategy.temperature=1e300",
        "student.model.options.depth=[1000000000]",
        "student.model.options.width=[99999999]",
        "student.train.epochs=" + "9" * 5000,
        "student.train.lr=" + "[" * 500 + "]" * 500,
        "student.name=" + "n" * 300,
        "seed=1e400",
        "data.size=-0.0",
    ],
)
def test_numbers_beyond_use_are_one_line(override, tmp_path, distill):
    recipe = tmp_path / "recipe.toml"
    recipe.write_bytes(RECIPE)
    status, _, err = distill("run", recipe, "--data", "demo:60", "--dry-run", override)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert len(err) < 1200


def test_ten_thousand_students_are_too_many():
    with pytest.raises(UserError, match="students"):
        recipe_of([f"students={[{'name': f's{n}', 'model': 'x'} for n in range(200)]}"])


@pytest.mark.parametrize("data", ["demo:1e30", "demo:" + "9" * 30, "demo:" + "9" * 5000])
def test_painted_faces_without_end_are_refused(data, distill):
    status, _, err = distill("check", data)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert len(err) < 1200


def test_an_empty_name_is_no_place(distill, tmp_path, monkeypatch):
    """`--out "$UNSET"` wrote into the current folder."""
    monkeypatch.chdir(tmp_path)
    status, _, err = distill("check", "demo:60", "--out", "")
    assert status == 2
    assert "an empty name" in err
    assert not list(tmp_path.iterdir())


def test_command_lines_of_nonsense_end_in_one_line(tmp_path, monkeypatch, distill, hostile):
    monkeypatch.chdir(tmp_path)
    for rng in hostile.tries(40):
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, 6))]
        if "run" in words[:1] and "--dry-run" not in words:
            words.append("--dry-run")
        status, _, err = distill(*words)
        hostile.assert_one_line(status, err)
