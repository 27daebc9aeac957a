"""Scores a run directory or a shipped ONNX file on any labelled data source."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distill.data.decode import UnreadableImageError
from distill.data.digest import image_sha256
from distill.data.sources import SPLITS, Item, Source, open_source, tell
from distill.errors import UserError, install_command
from distill.pipeline.answers import (
    Answers,
    Model,
    ask,
    check_classes,
    open_model,
    true_labels,
)
from distill.pipeline.seen import KeptSplits, kept_splits
from distill.progress import Progress
from distill.runtime.shipped import shipped_file
from distill.scoring.metrics import confusion_matrix, score

MODEL, OUTLIERS = "model", "outliers"


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
    class if there are any; of a file that can tell, how many images are `outliers`, `count` and
    `share` in percent; and `warnings`, if the model was made with some of the images.

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
    source = open_source(location, opened.task, to_train=False)
    check_classes(source, opened.names)
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
    title, asked = f"evaluate {model.name}", {MODEL: opened.probabilities}
    if opened.outliers:
        asked[OUTLIERS] = opened.outliers
    answers = ask(asked, opened.spec, source, items, title, workers, progress)
    cautions = kept.cautions(answers.digests, _fix(kept, answers, split)) if kept else ()
    return {
        "model": str(model),
        "data": location,
        **_scores(opened, answers, source.classes),
        **_outliers(answers),
        "warnings": [caution.to_json() for caution in cautions],
        "unreadable": answers.unreadable,
    }


def _splits_of(model: Path, is_needed: bool, progress: Progress) -> KeptSplits | None:
    try:
        return kept_splits(model)
    except ModuleNotFoundError as error:
        if is_needed:
            raise
        how = f"it needs {error.name}: {install_command('train')}"
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


def _fix(kept: KeptSplits, answers: Answers, split: str | None) -> str:
    """What to do about a score that images of training are in."""
    if split == "test":
        parted = "if copies straddle those, distill check --repair parts them"
        return f"score {kept.manifest}, which has its splits; {parted}"
    unseen = "--split test scores those of its test split, which it has not seen"
    if split is not None:
        return unseen
    pairs = zip(answers.items, answers.digests, strict=True)
    count = sum(kept.split_of(item.name, digest) == "test" for item, digest in pairs)
    shares = f"{count:,} of {len(answers.items):,}"
    return f"{unseen} ({shares})" if count else "score images that it has not seen"


def _scores(model: Model, answers: Answers, classes: tuple[str, ...]) -> dict[str, Any]:
    probs, truth = answers.values[MODEL], true_labels(answers.items, classes, model.names)
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


def _outliers(answers: Answers) -> dict[str, Any]:
    if OUTLIERS not in answers.values:
        return {}
    flags = answers.values[OUTLIERS]
    count = int(flags.sum())
    return {OUTLIERS: {"count": count, "share": 100.0 * count / len(flags)}}


def _of_split(source: Source, split: str | None) -> list[Item]:
    items = [item for item in source.items if split is None or item.split == split]
    if not items:
        given = sorted({item.split for item in source.items if item.split})
        raise UserError(f"no split {split!r}", "--split", f"choose one of {given}")
    return items
