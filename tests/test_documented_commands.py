"""Every command that README and docs print is run, on a desk as its reader may have it.

Placeholders get the desk's own files, data beside the checkout are replaced by painted faces, and
what takes long is asked to take less.
"""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from distill.runtime.video.output import VideoOutput

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
FENCE = re.compile(r"```[a-z]*\n(.*?)```", re.DOTALL)
WORDS = {  # what a reader puts in place of a word
    "DATA": "photos/",
    "s3://bucket/data": "photos/",
    "s3://bucket/runs/mine": "runs/mine",
    "phones/": "photos/",
    "webcam/": "photos/",
    "DIR": "runs/mine",
    "RECIPE": "recipe.toml",
    "runs/photos/recipe.toml": "recipe.toml",
    "students/photos.toml": "recipe.toml",
    "MODEL": "runs/mine",
    "MODEL.onnx": "runs/mine/export/student.fp32.onnx",
    "student.fp32.onnx": "runs/mine/export/student.fp32.onnx",
    "student.fp16.onnx": "runs/mine/export/student.fp32.onnx",
    "student.int8.onnx": "runs/mine/export/student.fp32.onnx",
    "runs/mine/export/student.int8.onnx": "runs/mine/export/student.fp32.onnx",
    "runs/mine/teachers/resnet50": "runs/mine/teachers/small",
    "RUN": "runs/mine/teachers/small",
    "masks=masks.int8.onnx": "masks=runs/mine/export/student.fp32.onnx",
    "IMAGE": "picture.jpg",
    "KEY": "views.flip",
    "SOURCE": "party.avi",
    "party.mp4": "party.avi",
    "party.jpg": "picture.jpg",
    "0": "party.avi",  # desks have no camera
    "NAME": "torchscript",
    "bench.engines=all": "bench.engines=onnxruntime",
    "cuda": "cpu",
    # It asks npm, which tests do not.
    'export.targets=["onnx_fp16", "onnx_int8", {name="web", offline=true}]': "--dry-run",
    "students.second.train.epochs=20": "students.second.train.epochs=2",
    "benchmarks/training_student.toml": "recipe.toml",
    "student.train.epochs=20": "student.train.epochs=2",
}
SHORTER = {  # what makes a command quick
    "bench training": [
        "--images",
        "32",
        "--rounds",
        "1",
        "--epochs",
        "1",
        "--engines",
        "student_only",
    ],
    "bench": ["bench.seconds=0.02", "bench.rounds=1", "bench.batch_sizes=1"],
    "run": ["--no-bench"],
    "sweep": ["--trials", "1"],
    "watch": ["--json"],
    "serve": ["--port", "0"],
}
RECIPE = """
random_forest.trees = 5
haar = "off"
[data]
size = 32
[bench]
batch_sizes = [1]
seconds = 0.02
rounds = 1
engines = ["onnxruntime"]
[export]
targets = ["onnx_fp32"]
[teacher]
name = "teacher"
model = { name = "baseline_cnn", options = { width = [8, 8], hidden = 8 } }
train = { epochs = 1, batch_size = 16 }
[student]
model = { name = "compact", options = { width = [16, 64], depth = [1, 1], head_width = 0 } }
strategy.name = "vanilla"
train = { epochs = 1, batch_size = 16 }
[[students]]
name = "first"
[[students]]
name = "second"
"""


def commands() -> list[str]:
    """The commands of all pages, once each, in the order in which they are read."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = "\n".join(FENCE.findall(text))
        lines = [line.split(" #")[0].strip() for line in blocks.splitlines()]
        prose = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        for line in (*lines, *prose):
            if re.match(r"(distill|make|pip install|torchrun|accelerate launch) \S", line):
                found[line] = None
    return list(found)


@pytest.fixture(scope="module")
def desk(tmp_path_factory, photos) -> Path:
    """A folder with photographs, a picture and a recipe, and room for runs."""
    root = tmp_path_factory.mktemp("desk")
    shutil.copytree(photos, root / "photos")
    shutil.copyfile(next((root / "photos").rglob("1.png")), root / "picture.jpg")
    (root / "recipe.toml").write_text(RECIPE)
    with VideoOutput(root / "party.avi", 25.0, (64, 64)) as video:
        video.write(np.zeros((64, 64, 3), np.uint8), 0.0)
    (root / "token").write_text("of-nobody\n")
    return root


@pytest.fixture
def run(desk, tiny_preset, cached_squeezenet, distill, monkeypatch):
    """Runs a command at the desk, where `runs/mine` is the experiment of an earlier one."""
    monkeypatch.chdir(desk)
    monkeypatch.setattr("distill.scoring.outliers.FEWEST", 5)  # else so few tell no outliers
    if not (desk / "runs" / "mine").is_dir():
        status, _, err = distill("run", "photos/", "--out", "runs/mine", "--no-bench")
        assert status == 0, err
    return distill


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    """A service that opens its models and its port, and is told to end at once."""
    from distill.serve import supervisor, worker

    monkeypatch.setattr(worker, "work", lambda *_: 0)
    monkeypatch.setattr(supervisor.Supervisor, "run", lambda _: 0)


def as_typed(command: str) -> list[str]:
    """The words of a command as a reader types them, asked to take little time."""
    words = [WORDS.get(word, word) for word in shlex.split(command.replace("…", ""))]
    words = words[words.index("distill") + 1 :]
    if "--data" in words and not words[words.index("--data") + 1].startswith("../shared"):
        words[words.index("--data") + 1] = "photos/"
    words = words[: words.index(">")] if ">" in words else words
    words = ["recipe.toml" if word == "mine.toml" else word for word in words]
    if "RECIPE" in command:
        place = "runs/other" if "=" in command else "runs/recipe"
        words = [*(word for word in words if word not in ("--out", "runs/mine")), "--out", place]
    elif words[-2:] == ["--out", "runs/mine"]:
        words[-1] = "runs/repaired"
    subcommand = next((key for key in SHORTER if " ".join(words).startswith(key)), "")
    return [*words, *SHORTER.get(subcommand, [])]


@pytest.mark.parametrize("command", [c for c in commands() if "distill " in c and "pip" not in c])
def test_a_documented_command_runs(command, run, desk, monkeypatch):
    words = as_typed(command)
    if len(shlex.split(command)) == 2:  # a command that prose speaks of by name
        words = [words[0], "--help"]
    elif words[1].startswith(("students/", "../shared")):  # trained in test_recipes_smoke
        if not SHARED.is_dir():
            pytest.skip(f"no real images: {SHARED} is missing")
        monkeypatch.chdir(REPOSITORY)
        words = [str(desk / word) if word == "photos/" else word for word in words]
        words = [*words, "--dry-run"] if words[0] != "check" else ["check", "--help"]
    if command.startswith(("torchrun", "accelerate")):
        words.append("--dry-run")
    status, _, err = run(*words)
    assert status == 0, f"{command}, as {words}: {err}"


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make")])
def test_a_documented_make_target_is_there(command):
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert command.split()[1] in targets


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("pip")])
def test_a_documented_extra_is_there(command):
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"\[([a-z,]+)\]", command)
    assert {e for group in named for e in group.split(",")} <= set(extras["optional-dependencies"])


def test_commands_are_found():
    """Or the tests above would hold whatever the pages say."""
    found = commands()
    assert "distill run photos/" in found
    assert len(found) > 40
