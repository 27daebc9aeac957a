"""The house: rooms on floors, imports that point down, no circle, and a runtime without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
GROUND = [
    "errors",
    "config",
    "overrides",
    "recipe",
    "registry",
    "progress",
    "files",
    "storage",
    "buckets",
    "mirror",
    "environment",
    "lock",
    "device",
]
# From the ground up. A room imports from floors below and, if that makes no circle, from its own.
FLOORS = [
    GROUND,
    ["data"],
    ["models", "strategies", "scoring"],
    ["students", "teachers", "teaching", "runtime", "report"],
    ["training", "export"],
    ["benchmarks", "pipeline"],
    ["search", "planner", "serve", "launchers"],
    ["cli", "__main__"],
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
STRANGERS = {("training", "export"), ("export", "training")}  # who may not know each other at all
TORCHLESS = ["runtime", "scoring", "serve", "data.decode", "cli", "pipeline.evaluate", *GROUND[:-1]]
FOLDERS = {"distill": REPOSITORY / "distill"}
FOLDERS |= {f"distill.{name}": REPOSITORY / name for name in ("benchmarks", "students", "teachers")}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def room_of(module: str) -> str:
    return module.split(".")[1]


def imported_by(source: str, package: str) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("distill."))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base]).strip(".")
            names = {f"{base}.{alias.name}" for alias in node.names}
            yield from names & MODULES.keys()
            if base.startswith("distill."):
                yield base


def imports() -> set[tuple[str, str]]:
    """Pairs of modules, the first of which imports the second; of the root's, none."""
    found = set()
    for module, file in MODULES.items():
        if module != "distill":
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            found |= {(module, other) for other in imported_by(file.read_text("utf-8"), package)}
    return found


def test_imports_point_down_and_make_no_circle() -> None:
    pairs = imports()
    assert len(pairs) > 400  # they are seen at all
    upward = [
        f"{one} imports {other}"
        for one, other in sorted(pairs)
        if FLOOR_OF[room_of(other)] > FLOOR_OF[room_of(one)]
        or (room_of(one), room_of(other)) in STRANGERS
    ]
    assert upward == []
    rooms: dict[str, set[str]] = {room_of(module): set() for module in MODULES if "." in module}
    for one, other in pairs:
        if room_of(one) != room_of(other):
            rooms[room_of(one)].add(room_of(other))
    list(TopologicalSorter(rooms).static_order())  # raises where there is a circle


def test_the_check_sees_every_form_of_import() -> None:
    forms = [
        "from distill.pipeline.train import begin",
        "import distill.pipeline.train",
        "from distill.pipeline import train",
        "from . import train",
        "from .train import begin",
        "def f():\n    from distill.pipeline.train import begin",
        "if TYPE_CHECKING:\n    from distill.pipeline import train",
    ]
    for form in forms:
        assert "distill.pipeline.train" in set(imported_by(form, "distill.pipeline")), form


def test_the_runtime_needs_no_torch() -> None:
    """`pip install distillate` brings neither torch nor what else training needs."""
    needed = [
        name
        for name in MODULES
        if name != "distill.__main__"
        and any(f"{name}.".startswith(f"distill.{part}.") for part in TORCHLESS)
    ]
    script = (
        "import importlib, sys\n"
        "extra = {'torch', 'torchvision', 'timm', 'accelerate', 'safetensors', 'sklearn', 'onnx'}\n"
        f"for name in {needed}:\n"
        "    importlib.import_module(name)\n"
        "    assert not extra & set(sys.modules), (name, extra & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tests_are_no_package() -> None:
    """KD_Lib installs a top-level package `tests`; ours must not be one either."""
    assert not list((REPOSITORY / "tests").rglob("__init__.py"))
