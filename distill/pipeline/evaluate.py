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
from distill.data.decode import (
    InputSpec,
    Pixels,
    UnreadableImageError,
    to_pixels,
)
from distill.data.digest import image_sha256
from distill.data.sources import SPLITS, Item, Source, open_source, tell
from distill.errors import UserError
from distill.pipeline.seen import KeptSplits, kept_splits
from distill.progress import Progress
from distill.runtime.predict import Predictor, check_probs
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


@dataclass(frozen=True)
class Answers:
    """What a model said of the images that can be read.

    Attributes:
        digests: SHA-256 of each image.
        probs: `(n, classes)`.
        unreadable: Reason by name, of the others.
    """

    items: list[Item]
    digests: list[str]
    probs: NDArray[np.float32]
    unreadable: dict[str, str]


def evaluate(
    model: Path,
    location: str,
    split: str | None,
    device: str,
    workers: int,
    progress: Progress,
    trust: bool = False,
) -> dict[str, Any]:
    """The scores of `distill.scoring.metrics` with the model's thresholds, and what was left out.

    Also the confusion matrix or, where labels are many, the `positives` of each; `thresholds` by
    class if there are any; and `warnings`, if the model was made with some of the images.

    Args:
        model: An `.onnx` file or an experiment that has one, which need no torch, or a run
            directory.
        split: `train`, `val` or `test`, of the source or, where that has no such split, of the
            model's experiment; None for the source's test split if there is one, else for every
            image.
        trust: A run directory may name a module, which is run.

    Raises:
        UserError: A class that the model does not know, images of several labels for a model of
            one, no such split, or no readable image.
    """
    model = shipped_file(model)
    opened = open_model(model, device, trust)
    source = open_source(location, opened.task)
    unknown = sorted({*source.classes} - {*opened.names})
    if unknown:
        what = f"the model has no class {unknown[0]!r}"
        raise UserError(
            what, location, f"name classes as the model does: {', '.join(opened.names)}"
        )
    tell(source, progress.say)
    if split not in (None, *SPLITS):
        raise UserError(f"no split {split!r}", "--split", f"choose one of {', '.join(SPLITS)}")
    given = {item.split for item in source.items if item.split}
    split = split or ("test" if "test" in given else None)
    is_given = split is None or split in given
    kept = _splits_of(model, not is_given, progress)
    if kept and split and not is_given:
        items = _in_kept_split(source, split, kept, workers, progress)
    else:
        items = _of_split(source, split)
    answers = _answers(opened, source, items, f"evaluate {model.name}", workers, progress)
    cautions = kept.cautions(answers.digests, _fix(kept, answers, split)) if kept else ()
    return {
        "model": str(model),
        "data": location,
        **_scores(opened, answers, source.classes),
        "warnings": [caution.to_json() for caution in cautions],
        "unreadable": answers.unreadable,
    }


def _splits_of(model: Path, is_needed: bool, progress: Progress) -> KeptSplits | None:
    try:
        return kept_splits(model)
    except ModuleNotFoundError as error:
        if is_needed:
            raise
        how = f"it needs {error.name}: pip install 'distillate[train]'"
        progress.say(f"evaluate: nothing is said of images that the model was trained on, {how}")
        return None


def _in_kept_split(
    source: Source, split: str, kept: KeptSplits, workers: int, progress: Progress
) -> list[Item]:
    """The images that were in a split of an experiment, by their content."""

    def digest(item: Item) -> str:
        try:
            return image_sha256(source.read(item))
        except UnreadableImageError:
            return ""

    found = []
    with (
        progress.task(f"look for split {split}", len(source.items), "images") as task,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        for item, sha256 in zip(source.items, pool.map(digest, source.items), strict=True):
            task.advance()
            if kept.split_of(item.name, sha256) == split:
                found.append(item)
    if not found:
        what = f"none of the images is in split {split!r} of {kept.manifest}"
        raise UserError(what, source.location, "name the data that the model was trained on")
    return found


def _answers(
    model: Model, source: Source, items: list[Item], title: str, workers: int, progress: Progress
) -> Answers:
    rows: list[NDArray[np.float32]] = []
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
            decoded = pool.map(lambda item: _decode(source, item, model.spec), chunk)
            for item, (pixels, note) in zip(chunk, decoded, strict=True):
                if pixels is None:
                    unreadable[item.name] = note
                    continue
                batch.append(pixels)
                kept.append(item)
                digests.append(note)
            if batch:
                rows.append(model.probabilities(np.stack(batch)))
            task.advance(len(chunk))
    if not rows:
        raise UserError("no readable image", source.location, "look at it: distill check")
    return Answers(kept, digests, np.concatenate(rows), unreadable)


def _fix(kept: KeptSplits, answers: Answers, split: str | None) -> str:
    """What to do about a score that images of training are in."""
    if split == "test":
        parted = "if copies straddle those, distill check --repair parts them"
        return f"score {kept.manifest}, which has its splits; {parted}"
    unseen = "--split test scores the images that it has not seen"
    if split is not None:
        return unseen
    pairs = zip(answers.items, answers.digests, strict=True)
    count = sum(kept.split_of(item.name, digest) == "test" for item, digest in pairs)
    shares = f"{count:,} of {len(answers.items):,}"
    return f"{unseen} ({shares})" if count else "score images that it has not seen"


def _scores(model: Model, answers: Answers, classes: tuple[str, ...]) -> dict[str, Any]:
    probs, truth = answers.probs, true_labels(answers.items, classes, model.names)
    scores = score(probs, truth, model.names, model.thresholds)
    if model.task == "multi":
        scores["positives"] = dict(zip(model.names, truth.sum(axis=0).tolist(), strict=True))
    else:
        matrix = confusion_matrix(probs.argmax(axis=1), truth, len(model.names))
        named = {"names": list(model.names), "rows_true_columns_predicted": matrix.tolist()}
        scores["confusion"] = named
    if model.thresholds is not None:
        scores["thresholds"] = dict(zip(model.names, model.thresholds.tolist(), strict=True))
    return scores


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
    return Model(shipped.names, shipped.task, shipped.spec, shipped.probs, shipped.tuned)


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


def _of_split(source: Source, split: str | None) -> list[Item]:
    items = [item for item in source.items if split is None or item.split == split]
    if not items:
        given = sorted({item.split for item in source.items if item.split})
        raise UserError(f"no split {split!r}", "--split", f"choose one of {given}")
    return items


def _decode(source: Source, item: Item, spec: InputSpec) -> tuple[Pixels | None, str]:
    """Pixels and the SHA-256 of an image, or None and why it cannot be read."""
    try:
        raw = source.read(item)
        return to_pixels(raw, spec), image_sha256(raw)
    except UnreadableImageError as error:
        return None, str(error)
