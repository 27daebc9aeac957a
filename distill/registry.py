"""The folders are the registry: a name in a recipe is a file, or a dotted module of the user's.

`strategy.name = "vanilla"` is `strategies/vanilla.py`, `model.name = "compact"` is
`students/compact.py`, `timm/resnet50` is the model `resnet50` of the family `teachers/timm.py`,
`export.targets = ["triton"]` is `export/triton.py`. A name with a dot is a module that can be
imported: of what is installed first, then from the folder of the recipe that names it, then from
the current one. Importing runs it: a recipe that names a module is to be trusted like a program.
"""

from __future__ import annotations

import ast
import importlib
import re
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel

from distill.errors import UserError
from distill.recipe import check_table, look_in, module_folders

OptionsT = TypeVar("OptionsT", bound=BaseModel)


def names_in(folder: str, offers: str = "") -> list[str]:
    """Names of the plug-ins in a folder of the package.

    Args:
        offers: The class or function that makes a file a plug-in, where the folder has others too.
    """
    root = Path(str(files(f"distill.{folder}")))
    defined = re.compile(rf"^(class|def) {offers}", re.MULTILINE)
    return sorted(
        file.stem
        for file in root.glob("*.py")
        if not file.stem.startswith("_") and defined.search(file.read_text("utf-8"))
    )


def summaries(folder: str, offers: str) -> dict[str, str]:
    """What each plug-in of a folder says first of what it offers; none of them is imported."""
    root, said = Path(str(files(f"distill.{folder}"))), {}
    for name in names_in(folder, offers):
        for node in ast.parse((root / f"{name}.py").read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == offers:
                said[name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return said


def find_module(folder: str, name: str, where: str, offers: str) -> ModuleType:
    """The module of a plug-in.

    Args:
        offers: An attribute that every plug-in of this folder has.

    Raises:
        UserError: There is neither such a file nor such an importable module, or it is none.
    """
    known = names_in(folder, offers)
    if "." not in name and name not in known:
        hint = f"choose one of {', '.join(known)}"
        if where.endswith("model.name"):
            hint += f"; or a library's: timm/{name}, torchvision/{name}"
        raise UserError(f"unknown name {name!r}", where, hint)
    target = name if "." in name else f"distill.{folder}.{name}"
    if "." in name:
        for place in (*module_folders(), "."):
            look_in(Path(place))
    try:
        module = importlib.import_module(target)
    except (ImportError, TypeError, ValueError, RecursionError, SystemExit) as error:  # also "."
        hint = "put a module of yours beside the recipe or into the current folder"
        raise UserError(f"cannot import {target!r}: {error}", where, hint) from None
    if not hasattr(module, offers):
        raise UserError(f"{target} has no {offers!r}", where, f"write one, as in {folder}/")
    return module


def check_options(model: type[OptionsT], options: dict[str, Any], where: str) -> OptionsT:
    """Options as the plug-in's own model declares them."""
    allowed = ", ".join(sorted(model.model_fields)) or "none"
    return check_table(model, options, where, f"its options are {allowed}")
