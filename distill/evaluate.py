"""Scores a run directory or a shipped ONNX file on any labelled folder."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.decode import InputSpec, Pixels, UnreadableImageError, to_pixels
from distill.data.sources import Item, Source, open_source
from distill.errors import UserError
from distill.metrics import confusion_matrix, score
from distill.predict import Predictor
from distill.progress import Progress

BATCH = 64
Probabilities = Callable[[Pixels], NDArray[np.float32]]


def evaluate(
    model: Path,
    location: str,
    split: str | None,
    device: str,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Top-1, macro-F1, calibration, per-class recall and confusion matrix.

    Args:
        model: An `.onnx` file, which needs no torch, or a run directory.
        split: `train`, `val` or `test` where the folder has splits; None for the test split if
            there is one, else for every image.

    Raises:
        UserError: A class folder that the model does not know, or no readable image.
    """
    names, spec, probabilities = open_model(model, device)
    source = open_source(location)
    unknown = sorted({*source.classes} - {*names})
    if unknown:
        what = f"the model has no class {unknown[0]!r}"
        raise UserError(what, location, f"it knows {', '.join(names)}")
    items = _of_split(source, split)
    rows: list[NDArray[np.float32]] = []
    labels: list[int] = []
    unreadable: dict[str, str] = {}
    with (
        progress.task(f"evaluate {model.name}", len(items), "images") as task,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        for start in range(0, len(items), BATCH):
            chunk = items[start : start + BATCH]
            decoded = list(pool.map(lambda item: _decode(source, item, spec), chunk))
            good = [(i, p) for i, p in zip(chunk, decoded, strict=True) if not isinstance(p, str)]
            bad = [(i, p) for i, p in zip(chunk, decoded, strict=True) if isinstance(p, str)]
            unreadable |= {item.name: reason for item, reason in bad}
            if good:
                rows.append(probabilities(np.stack([pixels for _, pixels in good])))
                labels += [names.index(source.classes[item.label]) for item, _ in good]
            task.advance(len(chunk))
    if not rows:
        raise UserError("no readable image", location)
    probs, truth = np.concatenate(rows), np.asarray(labels, dtype=np.int64)
    matrix = confusion_matrix(probs.argmax(axis=1), truth, len(names))
    return {
        "model": str(model),
        "data": location,
        **score(probs, truth, names),
        "confusion": {"names": list(names), "rows_true_columns_predicted": matrix.tolist()},
        "unreadable": unreadable,
    }


def open_model(model: Path, device: str) -> tuple[tuple[str, ...], InputSpec, Probabilities]:
    """Class names, preprocessing and the function from pixels to probabilities.

    Raises:
        UserError: Neither an ONNX file of ours nor a finished run directory.
    """
    if model.is_dir():
        return _open_run(model, device)
    predictor = Predictor(model)
    return predictor.names, predictor.spec, predictor.probs


def _open_run(folder: Path, device: str) -> tuple[tuple[str, ...], InputSpec, Probabilities]:
    import torch

    from distill.data.views import to_unit
    from distill.device import resolve_device
    from distill.runs import load_run

    chosen = resolve_device(device)
    classifier = load_run(folder).to(chosen)

    def probabilities(pixels: Pixels) -> NDArray[np.float32]:
        with torch.no_grad():
            probs = classifier(to_unit(pixels, chosen)).logits.float().softmax(dim=1)
        result: NDArray[np.float32] = probs.cpu().numpy()
        return result

    return classifier.contract.names, classifier.contract.input_spec, probabilities


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
