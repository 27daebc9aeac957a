"""Scores a run directory or a shipped ONNX file on any labelled data source."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.config import TaskName
from distill.data.decode import InputSpec, Pixels, UnreadableImageError, to_pixels
from distill.data.sources import Item, Source, open_source
from distill.errors import UserError
from distill.progress import Progress
from distill.runtime.predict import Predictor
from distill.runtime.shipped import shipped_file
from distill.scoring.metrics import confusion_matrix, score

BATCH = 64
Probabilities = Callable[[Pixels], NDArray[np.float32]]


@dataclass(frozen=True)
class Model:
    """What is scored.

    Attributes:
        probabilities: Of pixels, uint8 `(batch, height, width, 3)`.
        thresholds: `(classes,)`, what an answer has to reach; None where the model has none.
    """

    names: tuple[str, ...]
    task: TaskName
    spec: InputSpec
    probabilities: Probabilities
    thresholds: NDArray[np.float32] | None = None


def evaluate(
    model: Path,
    location: str,
    split: str | None,
    device: str,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """The scores of `distill.scoring.metrics` with the model's thresholds, and what was left out.

    Also the confusion matrix or, where labels are many, the `positives` of each; and `thresholds`
    by class if there are any.

    Args:
        model: An `.onnx` file or an experiment that has one, which need no torch, or a run
            directory.
        split: `train`, `val` or `test` where the source has splits; None for the test split if
            there is one, else for every image.

    Raises:
        UserError: A class that the model does not know, images of several labels for a model of
            one, or no readable image.
    """
    model = shipped_file(model)
    opened = open_model(model, device)
    source = open_source(location, opened.task)
    unknown = sorted({*source.classes} - {*opened.names})
    if unknown:
        what = f"the model has no class {unknown[0]!r}"
        raise UserError(what, location, f"it knows {', '.join(opened.names)}")
    items = _of_split(source, split)
    rows: list[NDArray[np.float32]] = []
    kept: list[Item] = []
    unreadable: dict[str, str] = {}
    with (
        progress.task(f"evaluate {model.name}", len(items), "images") as task,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        for start in range(0, len(items), BATCH):
            chunk = items[start : start + BATCH]
            decoded = list(pool.map(lambda item: _decode(source, item, opened.spec), chunk))
            good = [(i, p) for i, p in zip(chunk, decoded, strict=True) if not isinstance(p, str)]
            bad = [(i, p) for i, p in zip(chunk, decoded, strict=True) if isinstance(p, str)]
            unreadable |= {item.name: reason for item, reason in bad}
            if good:
                rows.append(opened.probabilities(np.stack([pixels for _, pixels in good])))
                kept += [item for item, _ in good]
            task.advance(len(chunk))
    if not rows:
        raise UserError("no readable image", location)
    probs, truth = np.concatenate(rows), true_labels(kept, source.classes, opened.names)
    scores = score(probs, truth, opened.names, opened.thresholds)
    if opened.task == "multi":
        scores["positives"] = dict(zip(opened.names, truth.sum(axis=0).tolist(), strict=True))
    else:
        matrix = confusion_matrix(probs.argmax(axis=1), truth, len(opened.names))
        named = {"names": list(opened.names), "rows_true_columns_predicted": matrix.tolist()}
        scores["confusion"] = named
    if opened.thresholds is not None:
        scores["thresholds"] = dict(zip(opened.names, opened.thresholds.tolist(), strict=True))
    return {"model": str(model), "data": location, **scores, "unreadable": unreadable}


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


def open_model(model: Path, device: str) -> Model:
    """A shipped file or a run directory, ready to answer.

    Raises:
        UserError: Neither an ONNX file of ours nor a finished run directory.
    """
    if model.is_dir():
        return _open_run(model, device)
    shipped = Predictor(model)
    return Model(shipped.names, shipped.task, shipped.spec, shipped.probs, shipped.tuned)


def _open_run(folder: Path, device: str) -> Model:
    import torch

    from distill.data.views.pixels import to_unit
    from distill.device import resolve_device
    from distill.models.inference import activate
    from distill.training.run_directory import open_run

    chosen = resolve_device(device)
    classifier = open_run(folder).load().to(chosen)
    contract = classifier.contract

    def probabilities(pixels: Pixels) -> NDArray[np.float32]:
        with torch.no_grad():
            logits = classifier(to_unit(pixels, chosen)).logits.float()
        result: NDArray[np.float32] = activate(logits, contract.task).cpu().numpy()
        return result

    return Model(contract.names, contract.task, contract.input_spec, probabilities)


def _of_split(source: Source, split: str | None) -> list[Item]:
    given = {item.split for item in source.items}
    if split is None:
        split = "test" if "test" in given else None
    elif split not in given:
        raise UserError(f"no split {split!r}", "--split", f"found {sorted(filter(None, given))}")
    return [item for item in source.items if split is None or item.split == split]


def _decode(source: Source, item: Item, spec: InputSpec) -> Pixels | str:
    try:
        return to_pixels(source.read(item), spec)
    except (UnreadableImageError, OSError) as error:
        return str(error)
