"""What is timed: models, each on every engine that takes it, and what they are asked with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill.benchmarks.engines import Run, find_engines
from distill.benchmarks.scenarios import Query
from distill.data.decode import InputSpec, Pixels, to_pixels
from distill.runtime.predict import Predictor
from distill.runtime.shipped import shipped_file
from distill.scoring.tasks import task_of

SEED = 0
INPUTS = 16  # different inputs per series
ClockName = Literal["model", "decode"]


@dataclass(frozen=True)
class Model:
    """An ONNX file or a run directory. None is for what is not known.

    Attributes:
        precision: What the file says it is in: `fp32`, `fp16`, `int8`.
        size_bytes: Of the file, or of the run's best weights.
        val: The task's main score on the validation split: its name, and percent.
    """

    name: str
    path: Path
    format: Literal["onnx", "run"]
    spec: InputSpec
    precision: str | None = None
    size_bytes: int | None = None
    val: tuple[str, float] | None = None


@dataclass(frozen=True)
class Subject:
    """A model on an engine."""

    model: Model
    engine: str

    def __str__(self) -> str:
        """Both names."""
        return f"{self.model.name} on {self.engine}"


def onnx_model(path: Path, name: str = "") -> Model:
    """A shipped ONNX file, named after the file unless a name is given.

    Raises:
        UserError: No such file, or not one that `distill export` wrote.
    """
    opened = Predictor(path)
    metadata, score = opened.metadata, task_of(opened.task).main_score
    metrics = metadata.get("metrics") or {}
    return Model(
        name or path.stem,
        path,
        "onnx",
        opened.spec,
        metadata.get("precision"),
        path.stat().st_size,
        (score, metrics[score]) if score in metrics else None,
    )


def run_model(folder: Path, name: str = "", trust: bool = True) -> Model:
    """The best weights of a run directory, named after it unless a name is given.

    Raises:
        UserError: Not a complete run directory; or its network is a module, without `trust`.
    """
    from distill.training.run_directory import BEST, open_run

    opened = open_run(folder)
    if not trust:
        opened.check_trusted()
    return Model(
        name or folder.resolve().name,
        folder,
        "run",
        opened.contract.input_spec,
        size_bytes=(folder / BEST).stat().st_size,
        val=(task_of(opened.contract.task).main_score, opened.best_score),
    )


def open_models(paths: Sequence[Path], trust: bool = False) -> list[Model]:
    """Models of files and directories; those of one name are named by their paths.

    An experiment stands for the file that it ships.

    Args:
        trust: Run directories may name a module, which is run.

    Raises:
        UserError: One of them is neither a shipped file nor a run directory; or its network is a
            module, without `trust`.
    """
    paths = [shipped_file(path) for path in paths]
    names = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    shown_as = [str(path) * (names.count(n) > 1) for path, n in zip(paths, names, strict=True)]
    return [
        run_model(path, shown, trust) if path.is_dir() else onnx_model(path, shown)
        for path, shown in zip(paths, shown_as, strict=True)
    ]


def pair(models: Sequence[Model], engines: Sequence[str]) -> tuple[list[Subject], list[str]]:
    """Every model on every engine that opens such a model, and a line for each without one.

    Raises:
        UserError: An unknown engine.
    """
    formats = {name: engine.FORMAT for name, engine in find_engines(engines).items()}
    subjects, left_out = [], []
    for model in models:
        fitting = [engine for engine, kind in formats.items() if kind == model.format]
        subjects += [Subject(model, engine) for engine in fitting]
        if not fitting:
            kind = "an ONNX file" if model.format == "onnx" else "a run directory"
            left_out.append(f"{model.name}: {kind} is nothing for {', '.join(engines)}")
    return subjects, left_out


def make_pixels(count: int, height: int, width: int) -> Pixels:
    """Soft patches of colour, uint8 `(count, height, width, 3)`, always the same ones."""
    coarse = np.random.default_rng(SEED).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    spec = InputSpec(height=height, width=width, resize="squash", interpolation="bicubic")
    return np.stack([to_pixels(patches, spec) for patches in coarse])


def model_query(run_pixels: Run, spec: InputSpec, batch_size: int, offset: int = 0) -> Query:
    """Asks with pixels, another batch each time, beginning with the one at `offset`."""
    pool = make_pixels(batch_size + INPUTS - 1, spec.height, spec.width)
    views = [pool[i : i + batch_size] for i in range(INPUTS)]  # overlapping, not copied
    return Query(run_pixels, _turned(views, offset), batch_size)


def decode_query(
    run_pixels: Run, spec: InputSpec, encoded: Sequence[bytes], batch_size: int, offset: int = 0
) -> Query:
    """Asks with encoded pictures, which are decoded and resized first, one after the other."""

    def call(batch: Sequence[bytes]) -> object:
        probs = run_pixels(np.stack([to_pixels(picture, spec) for picture in batch]))
        return probs.argmax(axis=1)

    pictures = cycle(encoded)
    batches = [list(islice(pictures, batch_size)) for _ in range(INPUTS)]
    return Query(call, _turned(batches, offset), batch_size)


def _turned(items: Sequence[Any], offset: int) -> Iterator[Any]:
    start = offset % len(items)
    return cycle(chain(items[start:], items[:start]))
