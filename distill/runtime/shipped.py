"""Which of an experiment's files is the one that ships."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# The int8 file is only there because it is worth it; without it the fp32 file is the one.
PREFERRED = ("int8.onnx", "fp32.onnx", ".onnx")


def preferred(names: Iterable[str]) -> str | None:
    """The file to ship, by its name; None where no ONNX file is among them."""
    listed = sorted(names)
    return next((name for end in PREFERRED for name in listed if name.endswith(end)), None)


def shipped_file(path: Path) -> Path:
    """The file that ships, of an experiment that has exported or its `export`; else the path."""
    for folder in (path / "export", path):
        if chosen := preferred(file.name for file in folder.glob("student*.onnx")):
            return folder / chosen
    return path
