"""Every shipped recipe runs on real photographs, a few of them, for two epochs."""

import json
import sys
from pathlib import Path

import pytest

from distill import cli

ROOT = Path(__file__).resolve().parents[1]
QUICK = "students/compact_masks.toml"
RECIPES = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in ("students", "teachers")
    for file in (ROOT / folder).glob("*.toml")
)


def distill(monkeypatch, *arguments: object) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["distill", *map(str, arguments)])
    cli.main()


@pytest.fixture
def masks(real_data) -> Path:
    if not (ROOT.parent / "shared" / "weights").is_dir():
        pytest.skip("no local weights: ../shared/weights is missing")
    return real_data / "masks"


def test_the_whole_pipeline_on_real_photographs(masks, tmp_path, monkeypatch):
    distill(monkeypatch, "run", QUICK, "--data", masks, "--out", tmp_path, "--smoke")
    results = json.loads((tmp_path / "results.json").read_text())
    kinds = [row["kind"] for row in results["rows"]]
    assert sorted(set(kinds)) == ["control", "onnx", "student", "teacher"]
    assert results["verdict"]["shipped"] == "student.fp32.onnx"
    assert results["rows"][0]["test"]["n"] == 24


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != QUICK])
def test_every_recipe(recipe, masks, tmp_path, monkeypatch):
    stage = "run" if recipe.startswith("students") else "teacher"
    distill(monkeypatch, stage, recipe, "--data", masks, "--out", tmp_path, "--smoke")
    assert list(tmp_path.rglob("best.safetensors"))
