"""Weights that `compact` students start from: features of a larger network, learned once.

Each is a file of float16 weights without a head, and a card. `compact.toml` is how they came to
be, `publish` puts its runs here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from distill.errors import UserError

FOLDER = Path(__file__).parent
OPTIONS = "model.options"  # key of a file's metadata: the shape of the network, as JSON
SHAPE = ("width", "depth", "stride", "kernel", "branches", "head_width")


def shapes() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files, and the options of the network that each is for."""
    for file in sorted(FOLDER.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            yield file, json.loads(opened.metadata()[OPTIONS])


def options_of(name: str) -> dict[str, Any]:
    """Options of the network that a file is for, by its name without ending."""
    return next(shape for file, shape in shapes() if file.stem == name)


def find_backbone(options: dict[str, Any]) -> Path:
    """The file for a shape.

    Args:
        options: Of `compact`, as JSON has them.

    Raises:
        UserError: There is none for it; says for which there are.
    """
    known = dict(shapes())
    for file, shape in known.items():
        if all(shape[key] == options[key] for key in SHAPE):
            return file
    listed = "; ".join(
        f"{file.stem}: " + ", ".join(f"{key} = {shape[key]}" for key in SHAPE[:3])
        for file, shape in known.items()
    )
    alike = f"the shape of one that there is ({listed}), " if listed else ""
    hint = f"take {alike}a file, or false"
    raise UserError("no backbone of this shape of compact", "model.pretrained", hint)
