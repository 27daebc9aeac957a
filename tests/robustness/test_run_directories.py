"""Run directories and experiments of strangers, or damaged: refused in one line, run by nobody."""

from __future__ import annotations

import json
import shutil

import pytest

from distill.files import files_below, write_manifest

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def run(make_experiment, tmp_path_factory):
    """A finished run directory."""
    experiment = make_experiment(tmp_path_factory.mktemp("runs") / "made", "single")
    return experiment.folder("student")


@pytest.fixture
def pictures(write_images, tmp_path):
    names = [f"{label}/{index}.jpg" for label in COLOURS for index in range(2)]
    return write_images(tmp_path / "pictures", names)


def copied(run, tmp_path):
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    return folder


def test_a_run_is_evaluated(run, pictures, distill):
    """So that the tests below can fail."""
    status, out, err = distill("evaluate", run, pictures)
    assert status == 0, err
    assert "top1" in out


@pytest.mark.parametrize("resealed", [False, True])
def test_mutated_runs_are_refused_in_one_line(run, pictures, tmp_path, distill, hostile, resealed):
    """Whoever changed a file may have written its hash anew."""
    for rng in hostile.tries(20):
        folder = copied(run, tmp_path)
        name = rng.choice(sorted({*files_below(folder), "manifest.json"}))
        file = folder / name
        if name.endswith(".json") and rng.random() < 0.7:
            value = hostile.mutated_value(json.loads(file.read_text()), rng)
            file.write_text(json.dumps(value))
        else:
            file.write_bytes(hostile.mutated(file.read_bytes(), rng))
        if resealed and name != "manifest.json":
            write_manifest(folder, files_below(folder))
        status, _, err = distill("evaluate", folder, pictures)
        hostile.assert_one_line(status, err)
        if not resealed and status == 0:
            assert file.read_bytes() == (run / name).read_bytes()


def test_an_empty_manifest_verifies_nothing(run, pictures, tmp_path, distill):
    folder = copied(run, tmp_path)
    (folder / "manifest.json").write_text("{}")
    status, _, err = distill("evaluate", folder, pictures)
    assert status == 2
    assert "lists no file" in err


def test_a_run_of_a_module_is_not_opened_unasked(run, pictures, tmp_path, distill, monkeypatch):
    """`evaluate` imported whatever module a stranger's config.json named, which runs it."""
    folder, witness = copied(run, tmp_path), tmp_path / "witness"
    (tmp_path / "harmful_net.py").write_text(f"open({str(witness)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["run"]["model"]["name"] = "harmful_net.x"
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder, files_below(folder))
    for command in (("evaluate", folder, pictures), ("bench", folder)):
        status, _, err = distill(*command)
        assert status == 2
        assert "--trust" in err
        assert not witness.exists()
    status, _, err = distill("evaluate", folder, pictures, "--trust")
    assert status == 2
    assert witness.exists()


@pytest.mark.parametrize("name", ["data.json", "recipe.toml", "plan.json"])
def test_mutated_experiments_are_refused_in_one_line(tmp_path, distill, hostile, name):
    whole = {
        "data.json": json.dumps({"location": "demo:60", "smoke": True}),
        "recipe.toml": "[[students]]\nname = 's'\nmodel.name = 'compact'\n",
        "plan.json": json.dumps({"asked": {}, "predicted_s": {"check": 1.0}}),
    }
    out = tmp_path / "experiment"
    for rng in hostile.tries(15):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for file, content in whole.items():
            (out / file).write_text(content)
        if name.endswith(".json") and rng.random() < 0.7:
            value = hostile.mutated_value(json.loads(whole[name]), rng)
            (out / name).write_text(json.dumps(value))
        else:
            (out / name).write_bytes(hostile.mutated(whole[name].encode(), rng))
        status, _, err = distill("report", out, "--dry-run")
        hostile.assert_one_line(status, err)
