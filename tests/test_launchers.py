"""Launchers: workers that share the work here, and the files that schedulers start them from."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from distill.errors import RunStopped, UserError
from distill.launchers import Launcher, Work, make_launcher
from distill.registry import names_in

RECIPE = """
random_forest.trees = 0
[data]
size = 32
[[teachers]]
name = "teacher"
model = {name = "baseline_cnn", options = {width = [8, 8], hidden = 8}}
train = {epochs = 1, batch_size = 16}
[[students]]
name = "one"
model = {name = "compact", options = {width = [8], depth = [1], head_width = 0}}
train = {epochs = 3, batch_size = 16}
cache.views = 3
strategy.name = "vanilla"
"""
ODD = ("cache", "build", "it's mine.toml", "--data", "my photos/$HOME", "--claim")


def work_in(folder: Path, arguments=ODD, workers: int = 3) -> tuple[Work, list[str]]:
    said: list[str] = []

    def nothing():
        raise AssertionError("it opens no experiment")

    return Work(
        tuple(arguments), workers, folder / "launch", "distill-mine", said.append, nothing
    ), said


@pytest.fixture
def trained(tmp_path, distill) -> tuple[Path, Path]:
    """A recipe, and an experiment directory with its teacher trained."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    out = tmp_path / "My runs 1"
    command = ("teacher", tmp_path / "recipe.toml", "--data", "demo:60", "--out", out)
    assert distill(*command)[0] == 0
    return tmp_path / "recipe.toml", out


def build(distill, recipe, out, *more) -> tuple[int, dict, str]:
    command = ("cache", "build", recipe, "--data", "demo:60", "--out", out, "--json")
    status, said, err = distill(*command, *more)
    return status, json.loads(said.splitlines()[-1]) if said else {}, err


def test_all_are_launchers_that_declare_their_options():
    names = names_in("launchers", ["class", "Launcher"][-1])
    assert {"local", "slurm", "kubernetes", "ray"} <= set(names)
    for name in names:
        assert isinstance(make_launcher(name, []), Launcher)


def test_processes_of_this_machine_share_the_work(trained, distill):
    recipe, out = trained
    options = ("--launcher", "local", "--workers", 2, "--lease-s", 30)
    status, told, err = build(distill, recipe, out, *options)
    assert status == 0, err
    (cache,) = told["caches"]
    assert (cache["views"], cache["shards"]) == (3, 3)
    logs = [(out / "launch" / f"worker-{number}.log").read_text() for number in (0, 1)]
    assert all("complete" in log for log in logs)
    assert not list((out / "cache" / "claims").iterdir())
    assert distill("cache", "verify", out)[0] == 0


def test_workers_have_the_lease_that_was_asked_for(trained, distill):
    recipe, out = trained
    status, _, err = build(distill, recipe, out, "--launcher", "slurm", "--lease-s", 30)
    assert status == 0, err
    (script,) = (out / "launch").glob("*.sbatch")
    words = shlex.split(script.read_text().splitlines()[-1])
    assert words[words.index("--lease-s") + 1] == "30"


def test_where_no_worker_comes_to_the_end_it_says_where_to_look(tmp_path):
    work, said = work_in(
        tmp_path, ("cache", "build", str(tmp_path / "none.toml"), "--data", "demo")
    )
    with pytest.raises(RunStopped, match="no worker came to the end"):
        make_launcher("local", []).launch(work)
    assert len(said) == 4
    assert all("no such recipe" in line for line in said[1:])


def test_each_worker_has_its_share_of_the_machine(monkeypatch):
    from distill.launchers import local

    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(local, "gpus_here", lambda: ["0", "5"])
    found = [local.Launcher().environment(number, 4) for number in range(4)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["0", "5", "0", "5"]
    assert {one["OMP_NUM_THREADS"] for one in found} == {"2"}
    monkeypatch.setattr(local, "gpus_here", list)
    assert "CUDA_VISIBLE_DEVICES" not in local.Launcher().environment(0, 4)


def test_the_script_for_slurm_runs_the_command_in_an_array(tmp_path):
    work, said = work_in(tmp_path)
    options = ["gpus=0", "partition=short", "at_once=2", "setup=source venv/bin/activate"]
    make_launcher("slurm", options).launch(work)
    script = tmp_path / "launch" / "distill-mine.sbatch"
    assert said == [f"submit it: sbatch {script}"]
    text = script.read_text()
    subprocess.run(["bash", "-n", script], check=True)
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    given = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))
    assert (given["array"], given["partition"]) == ("0-2%2", "short")
    assert "gpus-per-task" not in given
    assert "account" not in given
    assert "#SBATCH --requeue" in lines
    assert lines[-2] == "source venv/bin/activate"
    assert shlex.split(lines[-1]) == ["exec", "distill", *ODD]


def test_the_job_for_kubernetes_has_a_pod_for_each_worker(tmp_path):
    work, said = work_in(tmp_path)
    make_launcher("kubernetes", ["image=registry.example/train:1", "gpus=2"]).launch(work)
    place = tmp_path / "launch" / "distill-mine.job.json"
    assert said == [f"submit it: kubectl apply --filename {place}"]
    job = json.loads(place.read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    (container,) = spec["template"]["spec"]["containers"]
    assert container["args"] == list(ODD)
    assert container["image"] == "registry.example/train:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    rule = spec["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("moon", [], "unknown name 'moon'"),
        ("slurm", ["colour=1"], "colour"),
        ("slurm", ["gpus=-1"], "gpus"),
        ("slurm", ["partition='a\\nb'"], None),
        ("slurm", ['setup="a\\nrm -r /"'], "setup"),
        ("kubernetes", ["memory=lots"], "memory"),
        ("kubernetes", ["image='a b'"], "image"),
        ("local", ["gpus=1"], "gpus"),
    ],
)
def test_options_that_make_no_sense(name, options, words):
    if words is None:  # TOML's single quotes know no escapes: it is no line break
        assert make_launcher(name, options)
        return
    with pytest.raises(UserError, match=words):
        make_launcher(name, options)


def test_a_launcher_has_nothing_to_divide(trained, distill):
    recipe, out = trained
    status, _, err = build(distill, recipe, out, "--launcher", "local", "--part", "1/2")
    assert (status, "leave out --part" in err) == (2, True)


@pytest.mark.slow
def test_actors_of_ray_do_the_shards(trained, distill):
    pytest.importorskip("ray.data")
    recipe, out = trained
    status, told, err = build(distill, recipe, out, "--launcher", "ray", "--workers", 2)
    assert status == 0, err
    assert told["caches"][0]["shards"] == 3
    assert "3 shards by" in err
    assert distill("cache", "verify", out)[0] == 0
    before = {file: file.stat().st_mtime_ns for file in (out / "cache").rglob("view-*.npy")}
    assert build(distill, recipe, out, "--launcher", "ray", "--workers", 2)[0] == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
