"""Commands that are killed, or asked to end, at any moment: repeated, they end as ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

RECIPE = """
haar = "off"
[data]
size = 16
[[teachers]]
name = "teacher"
model = { name = "baseline_cnn", options = { width = [8, 8], hidden = 8 } }
train = { epochs = 4 }
[[students]]
name = "student"
model = { name = "compact", options = { width = [8, 8], depth = [1, 1], head_width = 0 } }
strategy = { name = "feature" }
train = { epochs = 6 }
[export]
targets = ["onnx_fp32"]
[random_forest]
trees = 3
"""


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    (folder / "recipe.toml").write_text(RECIPE)
    # Under nohup, or in the background of a script, signals are ignored, and children inherit that.
    program = "import signal\nfor name in ('SIGHUP', 'SIGTERM'):\n"
    program += "    signal.signal(getattr(signal, name), signal.SIG_DFL)\n"
    program += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from distill.cli import main; main()"
    command = ["run", "recipe.toml", "--data", "demo:90", "--out", "run", "--no-bench", *overrides]
    return subprocess.Popen(
        [sys.executable, "-c", program, *command],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, float]:
    """An experiment that nothing happened to, and the seconds that it took."""
    folder, begun = tmp_path_factory.mktemp("whole"), time.monotonic()
    _, err = (process := start(folder)).communicate()
    assert process.returncode == 0, err
    return folder / "run", time.monotonic() - begun


def test_kills_at_random_moments_change_nothing(whole, tmp_path, hostile):
    """Weights bit for bit, and no file that is not there without a kill."""
    expected, seconds = whole
    for rng in hostile.tries(3):
        process = start(tmp_path)
        time.sleep(rng.uniform(0.2, 0.95) * seconds)
        process.kill()
        process.communicate()
    _, err = (process := start(tmp_path)).communicate()
    assert process.returncode == 0, err
    for run in ("teachers/teacher", "students/student"):
        names = "best.safetensors"
        found, before = (load_file(place / run / names) for place in (tmp_path / "run", expected))
        assert all((found[key] == before[key]).all() for key in before)
    found, before = (
        json.loads((place / "manifest.json").read_text()) for place in (tmp_path / "run", expected)
    )
    assert found.keys() == before.keys()
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_requests_to_end_are_alike(tmp_path, name):
    process, begun = start(tmp_path, "teacher.train.epochs=100000"), tmp_path / "run" / "teachers"
    while not list(begun.rglob("metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted: repeat the command to continue"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["typer", "numpy", "torch"])
def test_ctrl_c_before_anything_has_begun(name, tmp_path):
    """In the first half second, while modules are imported, it was a traceback."""
    program = (
        "import os, signal, sys, time\n"
        "class Watch:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == {name!r}: os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from distill.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "run", "demo:60", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "interrupted: repeat the command to continue\n"
