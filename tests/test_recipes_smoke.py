"""Every shipped recipe runs on a few of the photographs that its header names, for two epochs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import SqueezeNet1_1_Weights

ROOT = Path(__file__).resolve().parents[1]
QUICK = "students/compact_masks.toml"
RECIPES = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in ("students", "teachers")
    for file in (ROOT / folder).glob("*.toml")
)


@pytest.fixture
def smoke(
    distill, real_data, tmp_path, tmp_path_factory, monkeypatch
) -> Callable[[str, str], None]:
    """Runs a command on a recipe and a few photographs, from the root of the checkout.

    torchvision's cache has the weights of SqueezeNet 1.1, as after a download.
    """
    weights = ROOT.parent / "shared" / "weights" / "squeezenet1_1_imagenet.safetensors"
    if not weights.is_file():
        pytest.skip("no local weights: ../shared/weights is missing")
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    name = Path(SqueezeNet1_1_Weights.DEFAULT.url).name
    stored = {key: tensor.float() for key, tensor in load_file(weights).items()}
    torch.save(stored, home / "hub" / "checkpoints" / name)
    monkeypatch.setenv("TORCH_HOME", str(home))
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
