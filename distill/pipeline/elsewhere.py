"""How what ships will do elsewhere: by distance from its training images, and on `also` itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.sources import open_source, tell
from distill.data.store import Split, spread
from distill.models.features import BATCH, features_of_pixels
from distill.pipeline.answers import Answers, ask, check_classes, open_model, true_labels
from distill.pipeline.bench import exported_files
from distill.pipeline.embedding import EMBEDDING, SIZE, embedding
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import all_runs
from distill.pipeline.seen import kept_splits
from distill.report.results import Caution, Results
from distill.report.warnings import far_from_training, worse_elsewhere
from distill.scoring.distance import NEIGHBOURS, Groups, by_distance, distances
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of

MOST = 10_000  # training images that distances are taken from, spread over the split
FEATURES = "features"


class Surroundings:
    """The training images of an experiment, and how far others are from them."""

    def __init__(self, experiment: Experiment) -> None:
        self.features = features_of_pixels(embedding(), experiment.device)
        train = experiment.data.train
        rows = spread(train, MOST)
        self._known = self.of(train, rows)
        self._groups = experiment.data.groups_of("train")[rows]

    def of(self, split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of some images of a split, `(n, d)`."""
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        return np.concatenate([self.features(split.take(part)) for part in parts])

    def away(self, features: NDArray[np.float32], groups: Groups) -> NDArray[np.float64]:
        """Distance `(n,)` of images from the nearest training images of other groups."""
        return distances(features, groups, self._known, self._groups)


def with_elsewhere(
    experiment: Experiment,
    results: Results,
    probs: Mapping[str, NDArray[Any]],
    right: Mapping[str, NDArray[np.bool_]],
) -> Results:
    """The results with `distance` and `elsewhere`, and what those warn of.

    Args:
        probs: What each row answers on the test split, `(images, classes)`, by its name.
        right: Which answers are, `(images,)`, or `(images, labels)` where those are many.
    """
    main, shipped = task_of(experiment.data.task).main_score, results.verdict.get("shipped")
    if shipped is None and not experiment.recipe.also:
        return results
    around = Surroundings(experiment)
    distance = None
    if shipped is not None:
        distance = quarters_of_test(experiment, around, shipped, probs[shipped], right[shipped])
    beyond = distance["quarters"][-2]["distance"] if distance else None
    found = list(scores_elsewhere(experiment, around, beyond))
    elsewhere = tuple(scores for scores, _ in found)
    warnings = (
        *results.warnings,
        *far_from_training(distance, task_of(experiment.data.task)),
        *(caution for _, cautions in found for caution in cautions),
        *worse_elsewhere(results.rows, elsewhere, shipped, main),
    )
    update = {"distance": distance, "elsewhere": elsewhere, "warnings": warnings}
    return results.model_copy(update=update)


def quarters_of_test(
    experiment: Experiment,
    around: Surroundings,
    name: str,
    probs: NDArray[Any],
    right: NDArray[np.bool_],
) -> dict[str, Any] | None:
    """Accuracy of a row in each quarter of the test split, by distance; None of a few groups.

    Args:
        probs: What it answers on the test split, `(images, classes)`.
        right: Which answers are, `(images,)`, or `(images, labels)` where those are many.
    """
    test, groups = experiment.data.test, experiment.data.groups_of("test")
    away = around.away(around.of(test, np.arange(len(test.names))), groups)
    shares = right if right.ndim == 1 else right.mean(axis=1)
    found = by_distance(away, shares, groups, probs, test.labels, experiment.data.classes)
    if not found:
        return None
    how = {"file": name, "embedding": f"{EMBEDDING}, {SIZE} px", "neighbours": NEIGHBOURS}
    return {**how, "quarters": [quarter._asdict() for quarter in found]}


def check_also(experiment: Experiment) -> None:
    """Opens the sources of `also`, before anything is trained.

    Raises:
        UserError: One cannot be opened, or has a class that the data have not.
    """
    for location in experiment.recipe.also:
        source = open_source(location, experiment.recipe.data.task, to_train=False)
        check_classes(source, experiment.source.classes)


def scores_elsewhere(
    experiment: Experiment, around: Surroundings, farthest: float | None
) -> Iterator[tuple[dict[str, Any], tuple[Caution, ...]]]:
    """Scores of every run and file on each source of `also`, and what flatters them.

    Args:
        farthest: Distance beyond which the farthest quarter of the test split begins.
    """
    data, recipe, device = experiment.data, experiment.recipe, str(experiment.device)
    if not recipe.also:
        return
    places = {config.name: experiment.folder(config.name) for config in all_runs(recipe)}
    places |= {file.name: file for file in exported_files(experiment.out)}
    models = {name: open_model(place, device, trust=True) for name, place in places.items()}
    asked = {name: model.probabilities for name, model in models.items()}
    for location in recipe.also:
        source = open_source(location, data.task, to_train=False)
        check_classes(source, data.classes)
        tell(source, experiment.progress.say)
        has_test = any(item.split == "test" for item in source.items)
        items = [item for item in source.items if not has_test or item.split == "test"]
        answers = ask(
            {**asked, FEATURES: around.features},
            data.spec,
            source,
            items,
            f"also {location}",
            experiment.workers,
            experiment.progress,
        )
        if count := len(answers.unreadable):
            experiment.progress.say(f"also {location}: {count:,} images could not be read")
        labels = true_labels(answers.items, source.classes, data.classes)
        rows = [
            {
                "name": name,
                "test": score(answers.values[name], labels, data.classes, model.thresholds),
            }
            for name, model in models.items()
        ]
        found = {"location": location, "n": len(labels), "rows": rows}
        if farthest is not None:
            found["farther_percent"] = 100.0 * float((_away(around, answers) > farthest).mean())
        yield found, _flattered(experiment, answers, location)


def _away(around: Surroundings, answers: Answers) -> NDArray[np.float64]:
    """Distances of images of a source; what is the same picture as a training image is near."""
    nobody = np.array([f"elsewhere {digest}" for digest in answers.digests])
    return around.away(answers.values[FEATURES], nobody)


def _flattered(experiment: Experiment, answers: Answers, location: str) -> tuple[Caution, ...]:
    kept = kept_splits(experiment.out / "recipe.toml")
    if kept is None:
        return ()
    fix = f"leave the pictures out of {location} that the experiment's data have"
    return tuple(kept.cautions(answers.digests, fix))
