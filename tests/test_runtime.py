"""What `pip install distillate` without extras brings, and is enough for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.pipeline.export import export_student
from distill.runtime.predict import Predictor

SOURCES = ("distill", "students", "teachers", "benchmarks")
FILES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt")
UNREACHABLE = ("dns error", "error sending request", "connect error", "Network is unreachable")


@pytest.fixture(scope="module")
def environment(tmp_path_factory, repository) -> Path:
    """The scripts of a fresh environment with our wheel, built from the checkout, and no extras."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if uv is None:
        pytest.skip("no uv to build an environment with")
    root = tmp_path_factory.mktemp("runtime")
    tree = root / "tree"  # a build leaves folders beside pyproject.toml
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(repository / name, tree / name, ignore=ignored)
    for name in FILES:
        shutil.copy(repository / name, tree / name)
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, root / "venv"], check=True)
    scripts = root / "venv" / ("Scripts" if os.name == "nt" else "bin")
    command = [uv, "pip", "install", "-q", "--python", scripts / "python"]
    command += ["--constraint", tree / "constraints.txt", tree]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip(f"no package registry: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return scripts


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_experiment) -> Path:
    """A shipped file."""
    experiment = make_experiment(tmp_path_factory.mktemp("shipped"), "single")
    export_student(experiment)
    return experiment.out / "export" / "student.fp32.onnx"


@pytest.fixture
def photos(tmp_path) -> Path:
    """A picture per class."""
    for index, name in enumerate(("red", "green", "blue")):
        pixels = np.full((20, 24, 3), 60, np.uint8)
        pixels[..., index] = 200
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "1.png")
    return tmp_path / "photos"


def call(environment: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of that environment, which sees nothing of this one."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [environment / str(arguments[0]), *map(str, arguments[1:])]
    # Not from the checkout, whose folder `distill` would be found first.
    folder = environment.parent
    return subprocess.run(command, capture_output=True, text=True, env=kept, cwd=folder)


def test_the_runtime_brings_no_training_packages(environment) -> None:
    absent = ["torch", "torchvision", "timm", "accelerate", "onnx", "sklearn", "safetensors"]
    script = f"import importlib.util as u; print([n for n in {absent} if u.find_spec(n)])"
    done = call(environment, "python", "-c", script)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_wheel_has_the_files_that_are_no_python(environment) -> None:
    script = (
        "from importlib.resources import files\n"
        "from distill.runtime.page import ASSETS, asset, index_page\n"
        "assert files('distill.students').joinpath('compact_demo.toml').is_file()\n"
        "assert all(map(asset, ASSETS)) and index_page()"
    )
    done = call(environment, "python", "-c", script)
    assert done.returncode == 0, done.stderr


def test_predictor_gives_the_same_answers_there(environment, model, photos) -> None:
    files = [str(file) for file in sorted(photos.rglob("*.png"))]
    script = (
        "import json, sys; from distill import Predictor; assert 'torch' not in sys.modules\n"
        f"print(json.dumps([p.__dict__ for p in Predictor({str(model)!r}).predict({files})]))"
    )
    done = call(environment, "python", "-c", script)
    assert done.returncode == 0, done.stderr
    for found, expected in zip(
        json.loads(done.stdout), Predictor(model).predict(files), strict=True
    ):
        assert found["labels"] == list(expected.labels)
        assert found["probs"] == pytest.approx(expected.probs, abs=1e-6)


def test_its_commands_work_there(environment, model, photos) -> None:
    done = call(environment, "distill", "predict", model, photos, "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    done = call(environment, "distill", "inspect", model, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["metadata"]["names"] == ["red", "green", "blue"]
    assert "graph" not in found  # the package onnx tells that
    quick = ("bench.batch_sizes=[1]", "bench.seconds=0.02", "bench.rounds=1", "--json")
    done = call(environment, "distill", "bench", model, *quick)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"]
    done = call(environment, "distill", "evaluate", model, photos, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["n"] == 3


def test_what_needs_more_says_what_to_install(environment, photos) -> None:
    done = call(environment, "distill", "run", "students/compact_demo.toml", "--data", photos)
    assert done.returncode == 2
    tree = environment.parents[1] / "tree"  # what it was installed from
    assert f"pip install '{tree}[all]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
