"""The whole command on two processes gives what one process gives, and leaves the same files."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from distill import cli
from distill.files import verify_manifest

RECIPE = """
    track = ["tensorboard"]
    haar = "off"
    [data]
    size = 32
    [[teachers]]
    name = "teacher"
    model = { name = "baseline_cnn", options = { width = [8, 8], dropout = 0.0 } }
    [student]
    model = { name = "baseline_cnn", options = { width = [8, 8], dropout = 0.0 } }
    [[students]]
    name = "cached"
    strategy = { name = "vanilla" }
    [[students]]
    name = "live"
    strategy = { name = "messy_collaboration" }
    cache = { use = false }
    start = "cached"
    [random_forest]
    trees = 5
    [export]
    targets = []
"""
TRAIN = ("train.epochs=3", "train.patience=1", "train.optimizer=sgd", "train.lr=1e-2")
RUNS = ("teachers/teacher", "students/cached", "students/live")


LEFT_BEHIND = """
import torch
from pathlib import Path
from distill.training.world import joined

with joined(torch.device("cpu")) as world:
    world.wrap(torch.nn.Linear(2, 2))(torch.ones(1, 2)).sum().backward()
threads = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
raise SystemExit(any("gloo" in name for name in threads))
"""
LAUNCHER = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")


def words(processes: int, command: str, *more: str) -> list[str]:
    """A command on the recipe, with a global batch of 16."""
    options = [f"{role}.{option}" for role in ("teacher", "student") for option in TRAIN]
    options += [f"{role}.train.batch_size={16 // processes}" for role in ("teacher", "student")]
    return [command, "recipe.toml", "--data", "demo:90", "--out", "out", *options, *more]


def launch(folder: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[int, Path]:
    """Of one process, this one, and of two that `torchrun` starts meanwhile."""
    found = {count: tmp_path_factory.mktemp(f"of{count}") for count in (1, 2)}
    for folder in found.values():
        (folder / "recipe.toml").write_text(RECIPE)
    run = "run", "--no-bench", "--json"
    shared = launch(found[2], *LAUNCHER, "-m", "distill", *words(2, *run))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found[1])
        patch.setattr(sys, "argv", ["distill", *words(1, *run)])
        cli.main()
    out, err = shared.communicate()
    assert shared.returncode == 0, err[-3000:]
    (found[2] / "stdout").write_text(out)
    return found


def rows(folder: Path, run: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / run / "metrics.jsonl").open()]


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_train_what_one_does(folders, run):
    one, two = (load_file(f / "out" / run / "best.safetensors") for f in folders.values())
    assert all(one[name].allclose(two[name], atol=1e-4) for name in one)
    for alone, shared in zip(*(rows(folder, run) for folder in folders.values()), strict=True):
        assert alone["train/loss"] == pytest.approx(shared["train/loss"], abs=1e-3)
        assert alone["val/loss"] == pytest.approx(shared["val/loss"], abs=1e-3)
    env = json.loads((folders[2] / "out" / run / "env.json").read_text())
    assert env["world_size"] == 2


def test_one_process_does_what_follows_and_all_is_there(folders):
    """The second rank said "not finished" at the first student; else both would have exported."""
    files = {
        count: {path.relative_to(folder).as_posix() for path in (folder / "out").rglob("*")}
        for count, folder in folders.items()
    }
    differing = {path for path in files[1] ^ files[2] if "/cache/" not in path}
    differing -= {"out/plan.json"}  # several processes are not timed
    assert not [path for path in differing if ".tfevents." not in path]  # which have times in them
    verify_manifest(folders[2] / "out")
    splits = {(folder / "out" / "manifest.parquet").read_bytes() for folder in folders.values()}
    assert len(splits) == 1
    tests = [
        {row["name"]: row["test"] for row in found["rows"] if "test" in row}
        for found in (json.loads((f / "out/results.json").read_text()) for f in folders.values())
    ]
    assert tests[0].keys() == tests[1].keys()
    for name, scores in tests[0].items():
        assert scores["nll"] == pytest.approx(tests[1][name]["nll"], abs=1e-3)


def test_one_process_tells_trackers(folders):
    """Of each run a file of events of its epochs, and one of its scores."""
    for folder in folders.values():
        files = list((folder / "out" / "track" / "tensorboard").rglob("*.tfevents.*"))
        runs = [file.parent.name for file in files]
        assert sorted(runs) == ["cached"] * 2 + ["live"] * 2 + ["teacher"] * 2


def test_one_process_prints_the_results(folders):
    out = (folders[2] / "stdout").read_text()
    assert json.loads(out.splitlines()[-1])["rows"]
    assert out.count("student.fp32.onnx:") == 1  # one table


def test_repeated_it_keeps_what_is_done(folders):
    """Started by another launcher: four variables say all that there is to know."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = "distill", *words(2, "student")
    ranks = [launch(folders[2], *command, RANK=rank, **common) for rank in ("0", "1")]
    said = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    for run in ("cached", "live"):
        assert "".join(said).count(f"{run}: done before, kept") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
def test_nothing_of_the_group_outlives_it(tmp_path):
    """Its threads hold tensors, and abort a process that has no interpreter any more."""
    (tmp_path / "work.py").write_text(LEFT_BEHIND)
    ranks = launch(tmp_path, *LAUNCHER, "work.py")
    _, err = ranks.communicate()
    assert ranks.returncode == 0, err


def test_what_processes_cannot_share_is_refused(folders, distill, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = distill("export", str(folders[2] / "out"))
    assert status == 2
    assert "error: 2 processes cannot share `distill export`" in err
