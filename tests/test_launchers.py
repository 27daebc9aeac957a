"""Launchers: workers that share the work here, and the files that schedulers start them from."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from distill.cli import cache as command
from distill.errors import RunStopped, UserError
from distill.launchers import Launcher, Work, make_launcher
from distill.mirror import open_mirror
from distill.pipeline.opening import Settings
from distill.recipe import load_recipe
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
AWAY = ("--data", "s3://it's/$HOME", "--out", "s3://bucket/mine", "--device", "auto", "--claim")
MORTAL = """
import os
import signal
from pathlib import Path

from torch import nn

from distill.students import baseline_cnn

Options, normalisation = baseline_cnn.Options, baseline_cnn.normalisation
KILL, ERR = (Path(__file__).with_name(name) for name in ("kill", "err"))


class Mortal(nn.Sequential):
    def forward(self, images):
        try:
            if KILL.read_text() == str(len(images)):
                KILL.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:  # it is said once, and one obeys
            pass
        errs = ERR.exists() and ERR.read_text() == str(len(images))
        return super().forward(images) * (float("nan") if errs else 1.0)


def build(*arguments):
    return Mortal(*baseline_cnn.build(*arguments))
"""


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
    assert {"local", "slurm", "kubernetes", "ray", "skypilot"} <= set(names)
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


PACKAGE = "git+https://git.example/distillate.git"


def sky_task(folder: Path, *options: str, arguments=("cache", "build", "mine.toml", *AWAY)):
    """What is written for SkyPilot, the recipe that it takes along, and what is said."""
    (folder / "mine.toml").write_text(RECIPE)
    overrides = ["student.cache.views=2"]
    work, said = work_in(folder, arguments)
    recipe = load_recipe(folder / "mine.toml", overrides)
    launcher = make_launcher("skypilot", list(options))
    opened = Work(**{**vars(work), "open": lambda: SimpleNamespace(recipe=recipe)})
    launcher.check(opened)
    launcher.launch(opened)
    task = yaml.safe_load((folder / "launch" / "distill-mine.sky.yaml").read_text("utf-8"))
    return task, recipe, said


def test_the_task_for_skypilot_has_all_that_a_machine_elsewhere_needs(tmp_path):
    overridden = ("cache", "build", "mine.toml", "student.cache.views=2", *AWAY)
    task, recipe, said = sky_task(tmp_path, f"package={PACKAGE}", arguments=overridden)
    place = tmp_path / "launch" / "distill-mine.sky.yaml"
    assert said == [f"submit it: sky jobs launch --detach-run --num-jobs 3 {place}"]
    assert task["resources"] == {
        "accelerators": "L4:1",
        "cpus": "8+",
        "memory": "32+",
        "use_spot": True,
        "job_recovery": {"max_restarts_on_errors": 3},
    }
    ((there, here),) = task["file_mounts"].items()
    assert load_recipe(here) == recipe  # with what was overridden
    last = task["run"].splitlines()[-1]
    assert shlex.split(last) == ["exec", "distill", "cache", "build", there, *AWAY]
    assert task["setup"].endswith(f"'distillate[train,scale] @ {PACKAGE}'")


def test_a_machine_is_told_where_distill_comes_from(tmp_path):
    """On PyPI another project has the name, and it was installed."""
    with pytest.raises(UserError, match="nothing says where machines get distill from"):
        sky_task(tmp_path)


def test_options_of_skypilot_that_are_empty_are_left_out(tmp_path):
    options = ["accelerators=", "memory=", "setup=", "use_spot=false", "infra=gcp/us-central1"]
    task, _, _ = sky_task(tmp_path, *options, "image='docker:registry.example/train:1'")
    assert task["resources"] == {
        "infra": "gcp/us-central1",
        "cpus": "8+",
        "image_id": "docker:registry.example/train:1",
        "use_spot": False,
        "job_recovery": {"max_restarts_on_errors": 3},
    }
    assert "setup" not in task


def test_what_runs_on_a_machine_is_shell(tmp_path):
    slurm, _ = work_in(tmp_path)
    make_launcher("slurm", []).launch(slurm)
    task, _, _ = sky_task(tmp_path, f"package={PACKAGE}")
    scripts = [tmp_path / "launch" / "distill-mine.sbatch", tmp_path / "run", tmp_path / "setup"]
    for script in scripts[1:]:
        script.write_text(f"#!/bin/bash\n{task[script.name]}")
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    if shellcheck := shutil.which("shellcheck"):
        # SC2016: that $HOME is not expanded within quotes is the point of them.
        subprocess.run([shellcheck, "--exclude=SC2016", *scripts], check=True)


def test_skypilot_reads_the_task(tmp_path):
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed: its schema is not at hand")
    sky_task(tmp_path, "infra=aws/us-east-1", "image='docker:registry.example/train:1'")
    task = sky.Task.from_yaml(str(tmp_path / "launch" / "distill-mine.sky.yaml"))
    (resources,) = task.resources
    assert (resources.use_spot, resources.accelerators) == (True, {"L4": 1})


@pytest.mark.parametrize(
    ("option", "place"), [("--out", "runs/mine"), ("--data", "/photos"), ("--unlabelled", "/more")]
)
def test_machines_of_skypilot_do_not_see_this_disk(tmp_path, option, place):
    arguments = ("cache", "build", "mine.toml", *AWAY, option, place)
    work, _ = work_in(tmp_path, arguments)
    with pytest.raises(UserError, match=f"share no disk, got {place}: {option}"):
        make_launcher("skypilot", []).check(work)


def test_addresses_stay_as_they_are_and_places_here_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distill.pipeline.train.begin", lambda experiment: None)
    for name in ("mine.toml", "more"):
        (tmp_path / name).touch()
    (tmp_path / "s3:" / "bucket" / "photos").mkdir(parents=True)  # which is not what is meant
    seen = []
    taken = SimpleNamespace(check=seen.append, launch=seen.append)
    monkeypatch.setattr("distill.launchers.make_launcher", lambda name, options: taken)
    asked = ("mine.toml", ["seed=1"], "s3://bucket/photos")
    progress = SimpleNamespace(say=print)
    monkeypatch.setenv("DISTILLATE_HOME", str(tmp_path / "home"))
    address = "memory://bucket/My runs, and so on, and so on, and so on"
    for out in (open_mirror(address), Path("out")):
        experiment = SimpleNamespace(out=out, data=None, progress=progress)
        command.launch(experiment, "any", [], asked, Settings(unlabelled="more"), 30.0)
    away, here = seen[0].arguments, seen[-1].arguments
    assert away[:6] == ("cache", "build", str(tmp_path / "mine.toml"), "seed=1", "--data", asked[2])
    assert away[away.index("--out") + 1] == address
    assert here[here.index("--out") + 1] == str(tmp_path / "out")
    assert away[away.index("--unlabelled") + 1] == str(tmp_path / "more")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", seen[0].name)  # it was cut at a hyphen
    assert seen[0].folder.parts[:2] == ("runs", seen[0].name.removeprefix("distill-"))


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


def test_kubernetes_has_a_schema_for_the_job(tmp_path):
    """As `make lint-deploy` installs it, which runs this, too."""
    reason = "kubernetes-validate is not installed: its schemas are not at hand"
    validate = pytest.importorskip("kubernetes_validate", reason=reason).validate
    work, _ = work_in(tmp_path)
    make_launcher("kubernetes", []).launch(work)
    job = json.loads((tmp_path / "launch" / "distill-mine.job.json").read_text())
    assert validate(job, "1.31", strict=True)


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
        ("skypilot", ["accelerators='a b'"], "accelerators"),
        ("skypilot", ['package="a\\nb"'], "package"),
        ("skypilot", ["cpus=many"], "cpus"),
        ("skypilot", ["use_spot=perhaps"], "use_spot"),
        ("skypilot", ['setup="a\\nb"'], "setup"),
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


@pytest.fixture
def mortal(tmp_path, distill, monkeypatch, request) -> SimpleNamespace:
    """An experiment whose teacher dies, or errs, when it is told so; and what it makes alone.

    `rows` is the size of the last batch of a shard, and of no other batch.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("DISTILLATE_MODULES", "")
    package = re.sub(r"\W", "_", request.node.name).strip("_")  # which no other test has imported
    network, recipe = tmp_path / package / "net.py", tmp_path / "recipe.toml"
    network.parent.mkdir()
    network.write_text(MORTAL)
    recipe.write_text(RECIPE.replace("baseline_cnn", f"{package}.net"))
    out, alone = tmp_path / "out", tmp_path / "alone"
    options = ("--data", "demo:150", "--device", "cpu", "--json", "--out")
    assert distill("teacher", recipe, *options, out)[0] == 0
    shutil.copytree(out, alone)
    _, said, _ = distill("cache", "build", recipe, *options, alone)
    (cache,) = json.loads(said.splitlines()[-1])["caches"]
    return SimpleNamespace(
        build=lambda *more: distill("cache", "build", recipe, *options, out, *more),
        order=network.with_name,
        rows=cache["images"] % 64,
        alone=shards(alone),
        shards=lambda: shards(out),
    )


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("view-*.npy")}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_a_worker_killed_within_a_shard_is_missed_by_nobody(mortal, launcher):
    """Its process gets SIGKILL at the second batch of a shard, and all bytes are there at last."""
    if launcher == "ray":
        pytest.importorskip("ray.data")
    mortal.order("kill").write_text(str(mortal.rows))
    status, _, err = mortal.build("--launcher", launcher, "--workers", 2, "--lease-s", 1)
    assert status == 0, err
    assert not mortal.order("kill").exists()
    assert len(mortal.alone) == 3
    assert mortal.shards() == mortal.alone


@pytest.mark.slow
def test_what_an_actor_of_ray_cannot_do_is_one_line(mortal):
    pytest.importorskip("ray.data")
    mortal.order("err").write_text(str(mortal.rows))
    status, _, err = mortal.build("--launcher", "ray", "--workers", 2)
    assert status == 3
    assert err.splitlines()[-1] == "error: its logits are not finite: teacher. Fix: train it again."
    mortal.order("err").unlink()
    assert mortal.build("--launcher", "ray", "--workers", 2)[0] == 0
    assert mortal.shards() == mortal.alone


@pytest.mark.slow
def test_a_shard_that_kills_its_actor_ends_it_in_one_line(mortal, monkeypatch):
    pytest.importorskip("ray.data")
    monkeypatch.setattr("distill.launchers.ray.RETRIES", 0)
    mortal.order("kill").write_text(str(mortal.rows))
    status, _, err = mortal.build("--launcher", "ray", "--workers", 1)
    assert (status, "error: Ray ended: " in err.splitlines()[-1]) == (3, True)
    assert mortal.build("--launcher", "ray", "--workers", 1)[0] == 0
    assert mortal.shards() == mortal.alone
