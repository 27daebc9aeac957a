"""Images that are probably labelled wrong: what a teacher says that has not seen their labels.

The recipe's first teacher is trained once per fold, on all but the fold's training images; groups
of near-duplicates stay together, or a copy would give the label away. Of validation and test
images, which none of these teachers was trained on, their mean is taken. Who is suspicious then is
decided by confident learning (Northcutt et al., 2021, arXiv:1911.00068), as cleanlab has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data.audit.findings import Finding
from distill.data.prepare import ImageData
from distill.data.sources import SPLITS
from distill.data.store import subset
from distill.errors import UserError, install_command
from distill.files import is_complete
from distill.models.classifier import Classifier, build_classifier
from distill.models.inference import predict_logits
from distill.pipeline.experiment import Experiment
from distill.pipeline.jobs import is_done
from distill.scoring.tasks import task_of
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.run_directory import open_run
from distill.training.world import World

Probs = NDArray[np.float64]
Ids = NDArray[np.int64]


def find_label_errors(experiment: Experiment, folds: int) -> list[Finding]:
    """Findings of kind `label_error`, the most suspicious image first.

    Args:
        folds: Teachers to train, at least 2; fewer leave each of them fewer images to learn from.

    Raises:
        UserError: The recipe has no teacher, or cleanlab is not installed.
    """
    check_cleanlab()
    if not experiment.recipe.teachers:
        raise UserError("the recipe has no teacher", "--label-errors", "name one that has")
    probs = out_of_fold_probs(experiment, folds)
    data = experiment.data
    names = [name for split in SPLITS for name in data.splits[split].names]
    labels = np.concatenate([data.splits[split].labels for split in SPLITS])
    findings = []
    for row in suspicious(labels, probs):
        findings.append(
            Finding(
                kind="label_error",
                severity="warning",
                paths=(names[row],),
                detail=_detail(labels[row], probs[row], data.classes),
            )
        )
    return findings


def check_cleanlab() -> None:
    """Raises UserError where cleanlab is not installed."""
    try:
        import cleanlab  # noqa: F401
    except ImportError:
        hint = install_command("audit")
        raise UserError("cleanlab is not installed", "--label-errors", hint) from None


def suspicious(labels: Ids, probs: Probs) -> list[int]:
    """Rows whose label confident learning doubts, the one of least credible label first.

    Args:
        labels: Class indices `(n,)`, or 0 and 1 `(n, num_classes)`.
        probs: Out-of-sample probabilities `(n, num_classes)`.
    """
    options: dict[str, Any] = {
        "filter_by": "confident_learning",
        "return_indices_ranked_by": "self_confidence",
        "n_jobs": 1,
    }
    if labels.ndim == 1:
        from cleanlab.filter import find_label_issues

        return [int(row) for row in find_label_issues(labels, probs, **options)]
    from cleanlab.multilabel_classification.filter import find_label_issues as find_multilabel

    label_lists = [np.flatnonzero(row).tolist() for row in labels]
    return [int(row) for row in find_multilabel(label_lists, probs, **options)]


def _detail(label: Any, probs: Probs, classes: Sequence[str]) -> str:
    if np.ndim(label) == 0:
        best = int(probs.argmax())
        return (
            f"labelled {classes[int(label)]} ({100 * probs[int(label)]:.0f} %), "
            f"looks like {classes[best]} ({100 * probs[best]:.0f} %)"
        )
    odd = np.flatnonzero((probs >= 0.5) != (np.asarray(label) == 1))
    doubts = [
        f"{classes[i]} is {'given' if label[i] == 1 else 'missing'} ({100 * probs[i]:.0f} %)"
        for i in odd[np.argsort(-np.abs(probs[odd] - 0.5))]
    ]
    return ", ".join(doubts) or "unlikely as a whole"


def out_of_fold_probs(experiment: Experiment, folds: int) -> Probs:
    """Probabilities of all images by teachers that did not see them: of train, val, test."""
    data, device = experiment.data, experiment.device
    fold_of = assign_folds(experiment, folds)
    train = np.zeros((len(data.train.labels), len(data.classes)))
    others = []
    for fold in range(folds):
        teacher = _fold_teacher(experiment, fold, folds, fold_of).to(device)
        rows = np.flatnonzero(fold_of == fold)
        held_out = subset(data.train, rows)
        train[rows] = task_of(data.task).probabilities(predict_logits(teacher, held_out, device))
        logits = [predict_logits(teacher, data.splits[split], device) for split in ("val", "test")]
        others.append(task_of(data.task).probabilities(np.concatenate(logits)))
    return np.concatenate([train, np.mean(others, axis=0)])


def assign_folds(experiment: Experiment, folds: int) -> Ids:
    """The fold of each training image: its group's, by a hash of the group's name."""
    listing = experiment.listing
    group_of = dict(zip((i.name for i in listing.items), listing.groups, strict=True))
    seed = experiment.recipe.seed

    def fold(name: str) -> int:
        digest = hashlib.sha256(f"fold {seed}\0{group_of[name]}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % folds

    return np.asarray([fold(name) for name in experiment.data.train.names], dtype=np.int64)


def _fold_teacher(experiment: Experiment, fold: int, folds: int, fold_of: Ids) -> Classifier:
    """The teacher of a fold, trained unless that was done before."""
    data, recipe = experiment.data, experiment.recipe
    config = recipe.teachers[0]
    rest = np.flatnonzero(fold_of != fold)
    part: ImageData = replace(
        data,
        splits={**data.splits, "train": subset(data.train, rest)},
        sha256=hashlib.sha256(f"{data.sha256} fold {fold} of {folds}".encode()).hexdigest(),
    )
    folder = experiment.out / "cache" / "folds" / f"{config.name}-{fold + 1}-of-{folds}"
    job = Job(
        config.model_copy(update={"name": folder.name}), part, recipe.views, recipe.seed, folder
    )
    if not is_done(job, overwrite=True, world=World(experiment.device)):
        torch.manual_seed(recipe.seed)
        begun = (folder / "last").is_dir()
        spec, classes = data.spec, data.classes
        model = build_classifier(config.model, classes, spec, not begun, data.task)
        experiment.progress.say(f"fold {fold + 1} of {folds}: {len(rest):,} training images")
        fit(model, job, experiment.device, experiment.progress)
    assert is_complete(folder)
    return open_run(folder).load()
