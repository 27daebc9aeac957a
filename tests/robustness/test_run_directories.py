"""Run directories and experiments of strangers, or damaged: refused in one line, run by nobody."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from safetensors.torch import load_file, save_file

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


@pytest.mark.parametrize(
    "named",
    [
        'model.name = "NAME"',
        'model.name = "compact"\nstrategy.name = "NAME"',
        'model.name = "compact"\n[export]\ntargets = ["NAME"]',
        'model.name = "compact"\n[bench]\nengines = ["NAME"]',
    ],
)
def test_an_experiment_of_modules_is_not_opened_unasked(tmp_path, distill, monkeypatch, named):
    """Nor are the folders that it names looked in."""
    out, witness = tmp_path / "experiment", tmp_path / "witness"
    name = f"harmful_{abs(hash(named))}"
    for folder in (out, tmp_path / "theirs"):
        folder.mkdir()
        (folder / f"{name}.py").write_text(f"open({str(witness)!r}, 'w')\n")
    described = {"location": "demo:60", "smoke": True, "modules": [str(tmp_path / "theirs")]}
    (out / "data.json").write_text(json.dumps(described))
    (out / "recipe.toml").write_text(f"[[students]]\n{named.replace('NAME', f'{name}.x')}\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("DISTILLATE_MODULES", "")
    for command in (("report", out), ("export", out, "--dry-run"), ("cache", "verify", out)):
        status, _, err = distill(*command)
        assert status == 2
        assert "--trust" in err
        assert not witness.exists()
        assert str(tmp_path / "theirs") not in sys.path
    status, _, err = distill("report", out, "--trust")
    assert status == 2
    assert witness.exists()


def test_answers_that_are_no_probabilities_are_an_error(run, pictures, tmp_path, distill):
    """Weights that are no numbers were scored."""
    folder = copied(run, tmp_path)
    weights = load_file(folder / "best.safetensors")
    save_file({k: t * float("nan") for k, t in weights.items()}, folder / "best.safetensors")
    write_manifest(folder, files_below(folder))
    status, _, err = distill("evaluate", folder, pictures)
    assert status == 2
    assert "no probabilities" in err


@pytest.mark.parametrize("size", [8192, 10**9, 0])
def test_sizes_that_nobody_trains_at_are_refused(run, pictures, tmp_path, distill, size):
    """At 8192 pixels an evaluation had no end."""
    folder = copied(run, tmp_path)
    contract = json.loads((folder / "contract.json").read_text())
    for changed in (
        contract | {"input_size": size},
        contract | {"input_spec": contract["input_spec"] | {"height": size}},
    ):
        (folder / "contract.json").write_text(json.dumps(changed))
        write_manifest(folder, files_below(folder))
        status, _, err = distill("evaluate", folder, pictures)
        assert status == 2, err
        assert "not what a run writes" in err


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
