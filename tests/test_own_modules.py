"""Plug-ins that are modules of the user's, beside a recipe or in the current folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill.pipeline.plan import check_plugins
from distill.recipe import load_recipe

NETWORK = """
from torch import nn

from distill.config import Options as BaseOptions
from distill.models import IMAGENET_MEAN, IMAGENET_STD


class Options(BaseOptions):
    width: int = 4


def build(variant, num_classes, size, pretrained, options):
    layers = [nn.Conv2d(3, options.width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(options.width, num_classes))


def normalisation(variant):
    return IMAGENET_MEAN, IMAGENET_STD
"""
STRATEGY = """
from distill.strategies.vanilla import Strategy as Vanilla


class Strategy(Vanilla):
    temperature: float = 1.5
"""
RECIPE = """
[teacher]
model.name = "baseline_cnn"
[student]
model = { name = "NETS.small", options = { width = 8 } }
strategy = { name = "METHODS.soft" }
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request) -> Path:
    """A recipe and its packages, whose names no other test has imported."""
    number = request.node.name.replace("-", "_").replace("[", "_").replace("]", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("DISTILLATE_MODULES", "")
    files = {f"nets_{number}/small.py": NETWORK, f"methods_{number}/soft.py": STRATEGY}
    for name, text in files.items():
        file = tmp_path / "project" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    recipe = tmp_path / "project" / "recipe.toml"
    recipe.write_text(
        RECIPE.replace("NETS", f"nets_{number}").replace("METHODS", f"methods_{number}")
    )
    return recipe


def test_modules_beside_the_recipe_are_found_from_anywhere(own, tmp_path, monkeypatch):
    """`my_package.my_net`, as the README promised, could not be imported."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_recipe(own)
    check_plugins(recipe)
    assert recipe.students[0].name.endswith("small-soft")


def test_modules_in_the_current_folder_are_found(own, tmp_path, monkeypatch):
    """Also where the recipe is another one, such as that of an experiment's directory."""
    monkeypatch.chdir(own.parent)
    moved = tmp_path / "experiment" / "recipe.toml"
    moved.parent.mkdir()
    own.rename(moved)
    check_plugins(load_recipe(moved))


def test_an_experiment_remembers_where_its_modules_are(own, tmp_path, distill, monkeypatch):
    """Trained from elsewhere, it could not be reported from there; nor did workers find them."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    quick = (
        "bench.scenarios=single_stream",
        "random_forest.trees=2",
        "haar=off",
        "export.targets=[]",
    )
    command = ("--data", "demo:60", "--out", tmp_path / "out", "--smoke", "--device", "cpu")
    status, _, err = distill("run", own, *command, "data.size=32", *quick, "export.student=s")
    assert status == 2  # no such student: nothing has begun
    status, out, err = distill("run", own, *command, "data.size=32", *quick)
    assert status == 0, err
    assert "small" in out.split("random_forest")[0]
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    assert [row for row in rows if row["engine"] == "torch" and "small" in row["name"]]
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "project" not in p])
    monkeypatch.setenv("DISTILLATE_MODULES", "")
    for name in [name for name in sys.modules if name.startswith(("nets_", "methods_"))]:
        monkeypatch.delitem(sys.modules, name)
    status, _, err = distill("report", tmp_path / "out", "--device", "cpu")
    assert status == 2
    assert "--trust" in err
    status, _, err = distill("report", tmp_path / "out", "--device", "cpu", "--trust")
    assert status == 0, err


def test_what_is_installed_comes_first(own, monkeypatch):
    """A folder beside a recipe does not take the place of a package that is there."""
    (own.parent / "numpy").mkdir()
    (own.parent / "numpy" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(own.parent)
    load_recipe(own)
    script = (
        "import sys; from distill.recipe import load_recipe; from distill.pipeline.plan import "
        f"check_plugins; check_plugins(load_recipe({str(own)!r})); import numpy; numpy.zeros(1)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=own.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_names_without_a_dot_look_nowhere_else(own):
    before = list(sys.path)
    own.write_text('[student]\nmodel.name = "compact"\n')
    load_recipe(own)
    assert sys.path == before
