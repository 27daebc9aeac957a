"""Nothing is sent to anybody: no command opens a connection beyond this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from distill.environment import SILENCE

# A connection or datagram to an address of the internet; loopback is this machine.
OUTSIDE = re.compile(r"(?:connect|sendto|sendmsg|sendmmsg)\(.*AF_INET6?.*")
QUESTION = "htons(53)"  # to a name server, which may be on this machine
LOOPBACK = re.compile(r'"127\.|"::1"|"::ffff:127\.')
TESTING = ("CI", "PYTEST_CURRENT_TEST")  # by which MLflow knows that its figures would be worthless


def watched(command: list[str], folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Starts a command under strace.

    With its filter in the kernel (strace 5.3), or every other call would be stopped at as well.
    """
    environment = {k: v for k, v in os.environ.items() if k not in (*SILENCE, *TESTING)}
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    log = str(folder / "strace.log")
    return subprocess.Popen(
        ["strace", "-f", "--seccomp-bpf", "-qq", "-e", calls, "-o", log, *command],
        cwd=folder,
        env={**environment, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def sent(process: subprocess.Popen[str], folder: Path) -> list[str]:
    """What a command that is watched, and its children, try to send beyond this machine."""
    _, said = process.communicate()
    if "PTRACE" in said or "ptrace" in said:
        pytest.skip("strace may not trace here")
    assert process.returncode == 0, said
    lines = (folder / "strace.log").read_text(errors="replace").splitlines()
    sent_out = [line for line in lines if OUTSIDE.search(line)]
    return [line for line in sent_out if not LOOPBACK.search(line) or QUESTION in line]


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@needs_strace
def test_what_is_sent_is_seen(tmp_path):
    """So that the tests below can fail."""
    program = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 53))"
    assert sent(watched([sys.executable, "-c", program], tmp_path), tmp_path)


@pytest.fixture(scope="module")
def predicting(tiny_onnx, tmp_path_factory):
    """A process that predicts for 30 s, while other tests run, and its folder."""
    folder = tmp_path_factory.mktemp("predicting")
    picture = folder / "a.jpg"
    Image.new("RGB", (40, 40)).save(picture)
    program = (
        "import time\nfrom distill import Predictor\n"
        f"model = Predictor({str(tiny_onnx)!r})\n"
        "end = time.monotonic() + 30\n"
        "while time.monotonic() < end:\n"
        f"    model.predict({str(picture)!r})\n    time.sleep(0.2)\n"
    )
    return watched([sys.executable, "-c", program], folder), folder


@needs_strace
def test_a_whole_run_and_its_workers_ask_nobody(predicting, tmp_path):
    program = "from distill.cli import main; main()"
    recipe = "students/compact_demo.toml"
    few = ["data.size=32", "bench.seconds=0.02", "bench.rounds=1", "random_forest.trees=5"]
    few += ["bench.batch_sizes=[1]", "bench.scenarios=single_stream", "track=tensorboard"]
    few += ["haar=off"]
    command = ["run", recipe, "--data", "demo:60", "--out", "run", "--smoke", *few]
    assert sent(watched([sys.executable, "-c", program, *command], tmp_path), tmp_path) == []


@needs_strace
def test_predictions_ask_nobody(predicting):
    """For longer than usage events are gathered: onnxruntime's wheels upload them by default."""
    assert sent(*predicting) == []


@needs_strace
@pytest.mark.trackers
@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_trackers_ask_nobody(name, tmp_path):
    """MLflow reports usage to its makers unless told not to, W&B sends runs to its service."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed: make trackers")
    program = "from distill.cli import main; main()"
    command = ["teacher", "students/compact_demo.toml", "--data", "demo:60", "--out", "run"]
    command += ["--smoke", "data.size=32", f"track={name}"]
    home = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    process = watched([sys.executable, "-c", program, *command], tmp_path, **home)
    assert sent(process, tmp_path) == []
    told = json.loads(next((tmp_path / "run").rglob("tracking.json")).read_text())["told"]
    assert told == {name: 2}


@needs_strace
@pytest.mark.slow  # a whole run, above, has a bench in it
def test_a_bench_and_its_workers_ask_nobody(tiny_onnx, tmp_path):
    """`distill bench` alone, for longer than usage events are gathered."""
    program = "from distill.cli import main; main()"
    options = ["bench.seconds=8", "bench.rounds=2", "bench.batch_sizes=[1]"]
    command = ["bench", str(tiny_onnx), *options, "bench.scenarios=single_stream"]
    assert sent(watched([sys.executable, "-c", program, *command], tmp_path), tmp_path) == []


def test_whoever_wants_to_tell_may(monkeypatch):
    """What the user has set stays."""
    program = "import os, distill; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k not in SILENCE}
    for given, expected in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, **given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_the_silence_comes_before_onnxruntime():
    program = (
        "import sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *rest):\n"
        "        import os\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import distill.runtime.predict\n"
        "import onnxruntime\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in SILENCE}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"]
