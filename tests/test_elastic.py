"""Processes that are killed, machines that leave, other launchers: the whole command, for real."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
RECIPE = """
    haar = "off"
    [data]
    size = 32
    [[teachers]]
    name = "teacher"
    model = { name = "baseline_cnn", options = { width = [4], hidden = 4 } }
    train = { epochs = 1 }
    [student]
    name = "student"
    model = { name = "compact", options = { width = [8, 16], depth = [1, 1], head_width = 0 } }
    train = { epochs = 40, batch_size = 4, accumulate = 2 }
    [random_forest]
    trees = 5
    [export]
    targets = []
"""
RUN = Path("out", "students", "student")
TORCHRUN = ("torch.distributed.run", "--max-restarts", "3")
TWO = (*TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", "distill")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(folder: Path, *launcher: str) -> subprocess.Popen[bytes]:
    """`distill run` as a launcher starts it; what it says is in `said`."""
    (folder / "recipe.toml").write_text(RECIPE)
    command = ("run", "recipe.toml", "--data", "demo:90", "--out", "out", "--no-bench")
    with (folder / "said").open("a") as said:
        return subprocess.Popen(
            [sys.executable, "-m", *launcher, *command, "--device", "cpu"],
            stdout=said,
            stderr=said,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def rows(folder: Path) -> list[dict]:
    file = folder / RUN / "metrics.jsonl"
    return [json.loads(line) for line in file.open()] if file.is_file() else []


def wait_for_epochs(folder: Path, launched: subprocess.Popen[bytes], count: int) -> None:
    while len(rows(folder)) < count:
        assert launched.poll() is None, (folder / "said").read_text()[-3000:]
        time.sleep(0.02)


def end(folder: Path, launched: subprocess.Popen[bytes]) -> None:
    assert launched.wait(240) == 0, (folder / "said").read_text()[-3000:]


def environment(folder: Path) -> dict:
    return json.loads((folder / RUN / "env.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A run of two processes whom nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    end(folder, start(folder, *TWO))
    return folder


def assert_same(one: Path, other: Path) -> None:
    first, second = (load_file(folder / RUN / "best.safetensors") for folder in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    timed = ("seconds", "images_per_s")
    told = [
        [{k: v for k, v in row.items() if k not in timed} for row in rows(folder)]
        for folder in (one, other)
    ]
    assert told[0] == told[1]
    assert (other / "out" / "results.json").is_file()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_process_changes_nothing(undisturbed, tmp_path, rank):
    """Those that torchrun started anew looked for the killed ones, for days."""
    launched = start(tmp_path, *TWO)
    wait_for_epochs(tmp_path, launched, 5)
    workers = psutil.Process(launched.pid).children(recursive=True)
    (victim,) = (one for one in workers if one.environ().get("RANK") == rank)
    victim.send_signal(signal.SIGKILL)
    end(tmp_path, launched)
    assert_same(undisturbed, tmp_path)
    assert environment(tmp_path)["world_size"] == 2


@pytest.mark.skipif(not importlib.util.find_spec("accelerate"), reason="needs accelerate")
def test_accelerate_starts_what_torchrun_does(undisturbed, tmp_path):
    """`--multi_gpu` is its word for several processes, on CPUs too."""
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    port = f"--dynamo_backend no --main_process_port {free_port()}"
    launcher = "accelerate.commands.launch", *options.split(), *port.split(), "-m", "distill"
    end(tmp_path, start(tmp_path, *launcher))
    assert_same(undisturbed, tmp_path)
    assert environment(tmp_path)["world_size"] == 2


def test_a_machine_that_leaves_leaves_its_batches_to_the_others(undisturbed, tmp_path):
    """Two agents stand for machines; the effective batch, and so an epoch's steps, stay."""
    place = f"--rdzv-backend c10d --rdzv-id x --rdzv-endpoint localhost:{free_port()}"
    nodes = (*TORCHRUN, "--nnodes", "1:2", "--nproc-per-node", "1", *place.split())
    times = "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=3"
    stays, leaves = (
        start(tmp_path, *nodes, "--rdzv-conf", f"is_host={host},{times}", "-m", "distill")
        for host in (1, 0)
    )
    wait_for_epochs(tmp_path, stays, 5)
    for process in (leaves, *psutil.Process(leaves.pid).children(recursive=True)):
        process.send_signal(signal.SIGKILL)
    leaves.wait()
    end(tmp_path, stays)
    assert environment(tmp_path)["world_size"] == 1
    assert environment(tmp_path)["effective_batch"] == 16
    assert [row["epoch"] for row in rows(tmp_path)] == list(range(40))
    for one, other in zip(rows(undisturbed), rows(tmp_path), strict=True):
        assert one["lr"] == other["lr"]
        if one["epoch"] < 5:
            assert one["train/loss"] == other["train/loss"]


BUFFERS = """
import json
from pathlib import Path
import torch
from distill.training.world import joined
with joined(torch.device("cpu")) as world:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    wrapped = world.wrap(model)
    wrapped(torch.rand(8, 2) + 5 * world.rank).sum().backward()  # statistics of one's own
    own = model[1].running_mean.tolist()
    wrapped.eval()(torch.rand(8, 2))
    Path(f"{world.rank}.json").write_text(json.dumps([own, model[1].running_mean.tolist()]))
"""


def test_averages_of_batchnorm_are_the_first_processes(tmp_path):
    (tmp_path / "buffers.py").write_text(BUFFERS)
    command = [sys.executable, "-m", *TWO[:-2], "buffers.py"]
    subprocess.run(command, capture_output=True, cwd=tmp_path, check=True)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first[0] == first[1] == second[1]
    assert second[0] != second[1]
