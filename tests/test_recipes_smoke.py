"""Every shipped recipe runs on a few of the photographs that its header names, for two epochs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUICK = "students/compact_masks.toml"
RECIPES = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in ("students", "teachers")
    for file in (ROOT / folder).glob("*.toml")
)


@pytest.fixture
def smoke(
    distill, real_data, cached_squeezenet, tmp_path, monkeypatch
) -> Callable[[str, str], None]:
    """Runs a command on a recipe and a few photographs, from the root of the checkout."""
    monkeypatch.chdir(ROOT)

    def run(command: str, recipe: str) -> None:
        named = re.search(r"--data ../shared/data/(\w+)", (ROOT / recipe).read_text("utf-8"))
        data = real_data / (named[1] if named else "masks")
        options = ("--data", data, "--out", tmp_path, "--smoke")
        status, _, err = distill(command, recipe, *options)
        assert status == 0, err

    return run


def test_the_whole_pipeline_on_real_photographs(smoke, tmp_path):
    smoke("run", QUICK)
    results = json.loads((tmp_path / "results.json").read_text())
    kinds = [row["kind"] for row in results["rows"]]
    assert sorted(set(kinds)) == ["control", "onnx", "student", "teacher"]
    files = sorted(path.name for path in (tmp_path / "export").glob("*.onnx"))
    assert files[:2] == ["student.fp16.onnx", "student.fp32.onnx"]
    assert results["verdict"]["shipped"] == files[-1]  # the int8 file, if it was worth it
    assert results["rows"][0]["test"]["n"] == 24


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != QUICK])
def test_every_recipe(recipe, smoke, tmp_path):
    smoke("run" if recipe.startswith("students") else "teacher", recipe)
    assert list(tmp_path.rglob("best.safetensors"))
