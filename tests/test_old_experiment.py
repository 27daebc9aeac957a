"""An experiment that was made before the move of 2026-11-25 still opens, and is not made again."""

import json
import zipfile
from pathlib import Path

import pytest

from distill.files import sha256_of, verify_manifest
from distill.pipeline import int8_training
from distill.pipeline.jobs import with_defaults

FIXTURE = Path(__file__).parent / "fixtures" / "experiment-before-the-move.zip"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Teacher, two students, the second of which both taught; exported, timed and reported."""
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path / "experiment")
    return tmp_path / "experiment"


def test_its_runs_and_files_are_kept(old, distill, tmp_path):
    weights = {file: sha256_of(file) for file in old.rglob("best.safetensors")}
    shipped = {file: sha256_of(file) for file in (old / "export").iterdir()}
    assert len(weights) == 3
    status, out, err = distill("report", old, "--device", "cpu", "--json")
    assert status == 0, err
    before = {"teacher", "first", "second", "student.fp32.onnx"}
    assert before <= {row["name"] for row in json.loads(out.splitlines()[-1])["rows"]}
    status, _, err = distill("export", old, "--device", "cpu")
    assert status == 0, err
    assert "export: done before, kept" in err
    command = ("student", old / "recipe.toml", "--data", "demo:60", "--smoke", "--out", old)
    status, _, err = distill(*command, "--device", "cpu")
    assert status == 0, err
    assert [f"{name}: done before, kept" in err for name in ("first", "second")] == [True, True]
    assert all(sha256_of(file) == digest for file, digest in {**weights, **shipped}.items())
    verify_manifest(old)
    assert (old / "manifest.parquet").is_file()


def test_its_models_answer(old, distill, image_folder):
    for model in (old / "students" / "second", old / "export" / "student.fp32.onnx"):
        status, out, err = distill("evaluate", model, "demo:60", "--json", "--device", "cpu")
        assert status == 0, err
        assert json.loads(out.splitlines()[-1])["n"] > 0
    status, out, _ = distill("predict", old / "export" / "student.fp32.onnx", image_folder)
    assert (status, len(out.splitlines())) == (0, 16)


def test_modules_that_moved_are_known_by_their_old_names():
    """Or every quantisation-aware run of before would count as changed."""
    described = {"run": {"name": "s-int8", "model": {"name": "distill.qad"}}, "views": {}}
    assert with_defaults(described)["run"]["model"]["name"] == int8_training.__name__
