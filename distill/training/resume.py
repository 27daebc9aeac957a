"""What a stopped run left to go on from, and whether that is whole."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from distill.errors import first_line
from distill.files import blame_system, sha256_of
from distill.training.run_directory import BEST, ROWS

STATE = "last/state.pt"
PARTS = ("epoch", "network", "averaged", "optimizer", "schedule", "scaler")


def waiting_weights(folder: Path, epoch: int) -> Path:
    """Where the best weights wait until the state of their epoch is on disk."""
    return folder / "last" / f"best-{epoch}.safetensors"


def stored_state(
    folder: Path, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any] | None:
    """What the last whole epoch left; None where there is none, or what is there is not whole.

    Args:
        say: Is told that the run begins again, and why.
    """
    if not (folder / STATE).is_file():
        return None
    content = (folder / STATE).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parts:  # torch itself compares no checksum
            if changed := parts.testzip():
                raise ValueError(f"{changed} was changed since it was written")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _check(folder, state)
    except FileNotFoundError as error:
        reason = f"{Path(str(error.filename)).name} is missing"
    except Exception as error:  # bad bytes make unpicklers raise nearly every built-in type
        blame_system(error)  # which may pass: what is there stays as it is
        reason = first_line(error)
    else:
        return dict(state)
    say(f"warning: what was trained in {folder} is damaged ({reason}): the run begins again")
    return None


def _check(folder: Path, state: Any) -> None:
    """Raises where a part of the state, a line of an epoch or the best weights are not there."""
    if not isinstance(state, dict) or not {*PARTS} <= state.keys():
        raise ValueError(f"{STATE} lacks a part")
    lines = (folder / ROWS).read_text("utf-8").splitlines()[: state["epoch"] + 1]
    for number, line in enumerate(lines):
        if json.loads(line)["epoch"] != number:
            raise ValueError(f"{ROWS} has another epoch in line {number + 1}")
    if len(lines) <= state["epoch"]:
        raise ValueError(f"{ROWS} ends too soon")
    best_epoch: int = state["best_epoch"] if "best_epoch" in state else state["epoch"]
    if best_epoch >= 0:
        waiting = waiting_weights(folder, best_epoch)
        file = waiting if waiting.is_file() else folder / BEST
        with safe_open(file, "pt"):
            pass  # which compares the header with the file's length
        if state.get("best_sha256") not in (None, "", sha256_of(file)):
            raise ValueError(f"{BEST} was changed since it was written")
