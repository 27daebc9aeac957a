"""What models answer to images of a source: run directories and shipped files alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import TaskName
from distill.data.decode import InputSpec, Pixels, UnreadableImageError, to_pixels
from distill.data.digest import image_sha256
from distill.data.sources import Item, Source
from distill.errors import UserError
from distill.progress import Progress
from distill.runtime.predict import Predictor
from distill.runtime.session import check_probs

BATCH = 64
Probabilities = Callable[[Pixels], NDArray[Any]]


@dataclass(frozen=True)
class Model:
    """What is asked.

    Attributes:
        probabilities: Of pixels, uint8 `(batch, height, width, 3)`.
        thresholds: `(classes,)`, what an answer has to reach; None where the model has none.
        outliers: Which pixels, `(batch,)`, are unlike those of training; None where it cannot tell.
    """

    names: tuple[str, ...]
    task: TaskName
    spec: InputSpec
    probabilities: Probabilities
    thresholds: NDArray[np.float32] | None = None
    outliers: Callable[[Pixels], NDArray[np.bool_]] | None = None


@dataclass(frozen=True)
class Answers:
    """What was said of the images that can be read.

    Attributes:
        digests: SHA-256 of each image.
        values: `(n, width)` by the name of who was asked.
        unreadable: Reason by name, of the others.
    """

    items: list[Item]
    digests: list[str]
    values: dict[str, NDArray[Any]]
    unreadable: dict[str, str]


def ask(
    asked: Mapping[str, Probabilities],
    spec: InputSpec,
    source: Source,
    items: Sequence[Item],
    title: str,
    workers: int,
    progress: Progress,
) -> Answers:
    """What each of several says of images, which are decoded once, a batch at a time.

    Args:
        asked: Take pixels that `spec` describes, uint8 `(batch, height, width, 3)`.
        workers: Decoding threads.

    Raises:
        UserError: No image can be read.
    """
    rows: dict[str, list[NDArray[Any]]] = {name: [] for name in asked}
    kept: list[Item] = []
    digests: list[str] = []
    unreadable: dict[str, str] = {}
    with (
        progress.task(title, len(items), "images") as task,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        for start in range(0, len(items), BATCH):
            chunk = items[start : start + BATCH]
            batch = []
            decoded = pool.map(lambda item: _decode(source, item, spec), chunk)
            for item, (pixels, note) in zip(chunk, decoded, strict=True):
                if pixels is None:
                    unreadable[item.name] = note
                    continue
                batch.append(pixels)
                kept.append(item)
                digests.append(note)
            if batch:
                stacked = np.stack(batch)
                for name, answer in asked.items():
                    rows[name].append(answer(stacked))
            task.advance(len(chunk))
    if not kept:
        raise UserError("no readable image", source.location, "look at it: distill check")
    return Answers(kept, digests, {n: np.concatenate(r) for n, r in rows.items()}, unreadable)


def _decode(source: Source, item: Item, spec: InputSpec) -> tuple[Pixels | None, str]:
    """Pixels and the SHA-256 of an image, or None and why it cannot be read."""
    try:
        raw = source.read(item)
        return to_pixels(raw, spec), image_sha256(raw)
    except UnreadableImageError as error:
        return None, str(error)


def check_classes(source: Source, names: Sequence[str]) -> None:
    """Raises `UserError` where a source has a class that a model does not know."""
    if unknown := sorted({*source.classes} - {*names}):
        what = f"the model has no class {unknown[0]!r}"
        hint = f"name classes as the model does: {', '.join(names)}"
        raise UserError(what, source.location, hint)


def true_labels(
    items: list[Item], classes: tuple[str, ...], names: tuple[str, ...]
) -> NDArray[np.int64]:
    """Labels of items in the order of a model's names, as `scoring.metrics.score` takes them.

    A class of the model's that the source does not have is on none of its images.
    """
    column = [names.index(name) for name in classes]
    if not isinstance(items[0].label, tuple):
        plain = [column[item.label] for item in items if isinstance(item.label, int)]
        return np.asarray(plain, dtype=np.int64)
    matrix = np.zeros((len(items), len(names)), dtype=np.int64)
    for row, item in zip(matrix, items, strict=True):
        if isinstance(item.label, tuple):
            row[[column[index] for index in item.label]] = 1
    return matrix


def open_model(model: Path, device: str, trust: bool = False) -> Model:
    """A shipped file or a run directory, ready to answer.

    Raises:
        UserError: Neither an ONNX file of ours nor a finished run directory; or one whose network
            is a module, without `trust`.
    """
    if model.is_dir():
        return _open_run(model, device, trust)
    shipped = Predictor(model)
    tells = shipped.tells_outliers if shipped.outliers else None
    return Model(shipped.names, shipped.task, shipped.spec, shipped.probs, shipped.tuned, tells)


def _open_run(folder: Path, device: str, trust: bool) -> Model:
    import torch

    from distill.data.views.pixels import to_unit
    from distill.device import resolve_device
    from distill.models.inference import activate
    from distill.training.run_directory import open_run

    chosen = resolve_device(device)
    run = open_run(folder)
    if not trust:
        run.check_trusted()
    classifier = run.load().to(chosen)
    contract = classifier.contract

    def probabilities(pixels: Pixels) -> NDArray[np.float32]:
        with torch.no_grad():
            logits = classifier(to_unit(pixels, chosen)).logits.float()
        result: NDArray[np.float32] = activate(logits, contract.task).cpu().numpy()
        check_probs(result, contract.names, folder, len(pixels))
        return result

    return Model(contract.names, contract.task, contract.input_spec, probabilities)
