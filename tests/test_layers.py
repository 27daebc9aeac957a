"""Imports point one way only, and the runtime side needs no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# From the inside out; a module may import from its own layer and from those above it in this list.
LAYERS = [
    ["errors", "config", "recipe", "registry", "progress", "run"],
    ["data", "data.*", "weights", "models", "losses", "objective", "imbalance", "device"],
    [
        "job",
        "metrics*",
        "strategies",
        "strategies.*",
        "students.*",
        "teachers.*",
        "teacher*",
        "task",
    ],
    ["optim", "train", "trainer"],
    ["*"],  # the stages, the exporters, the report, the runtime
    ["cli*"],
]
FOLDERS = {"distill": REPOSITORY / "distill"}
FOLDERS |= {f"distill.{name}": REPOSITORY / name for name in ("benchmarks", "students", "teachers")}
RUNTIME = [
    "predict",
    "inspect_file",
    "evaluate",
    "data.decode",
    "errors",
    "metrics",
    "thresholds",
    "run",
    "progress",
    "recipe",
    "cli",
]


def layer_of(module: str) -> int:
    """Index of a module's layer; those that no pattern names are in the last but one."""
    name = module.removeprefix("distill.")
    for index, patterns in enumerate(LAYERS):
        if any(fnmatchcase(name, pattern) for pattern in patterns if pattern != "*"):
            return index
    return LAYERS.index(["*"])


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imported_by(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """Modules of ours that a file imports, wherever in it, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base]).strip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (full if full in MODULES else base), node.lineno


def outward_imports(source: str, module: str, package: str) -> list[str]:
    """Imports of a module that point from an inner layer to an outer one."""
    own = layer_of(module)
    return [
        f"{module}:{line} imports {target}"
        for target, line in imported_by(ast.parse(source), package)
        if target.startswith("distill.") and layer_of(target) > own
    ]


def package_of(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def test_all_files_are_seen() -> None:
    assert {"distill", "distill.data.sources.folder", "distill.students.compact"} <= set(MODULES)
    for layer in LAYERS:
        for pattern in layer:
            assert any(fnmatchcase(m.removeprefix("distill."), pattern) for m in MODULES), pattern


@pytest.mark.parametrize("module", [name for name in MODULES if name != "distill"])
def test_imports_point_inwards(module: str) -> None:
    file = MODULES[module]
    assert outward_imports(file.read_text("utf-8"), module, package_of(module, file)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from distill.models import Classifier",
        "import distill.training.fit",
        "from distill import pipeline",
        "from . import pipeline",
        "from .data.decode import InputSpec",
        "def f():\n    from distill.cli import main",
        "if TYPE_CHECKING:\n    from distill.data import splits",
    ],
)
def test_the_check_sees_every_form_of_import(source: str) -> None:
    assert len(outward_imports(source, "distill.config", "distill")) == 1
    assert outward_imports(source, "distill.cli.app", "distill") == []


def test_the_order_of_layers() -> None:
    order = ["config", "data.views", "strategies.vanilla", "train", "export.graph", "cli"]
    assert [layer_of(f"distill.{name}") for name in order] == list(range(6))
    assert layer_of("distill.runtime.predict") == layer_of("distill.pipeline.train") == 4


def test_the_runtime_needs_no_torch() -> None:
    """`pip install distillate` brings neither torch nor what else training needs."""
    script = (
        "import importlib, sys\n"
        "extra = {'torch', 'torchvision', 'timm', 'accelerate', 'safetensors', 'sklearn', 'onnx'}\n"
        f"for name in {RUNTIME}:\n"
        "    importlib.import_module(f'distill.{name}')\n"
        "    assert not extra & set(sys.modules), (name, extra & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tests_are_no_package() -> None:
    """KD_Lib installs a top-level package `tests`; ours must not be one either."""
    assert not list((REPOSITORY / "tests").rglob("__init__.py"))
