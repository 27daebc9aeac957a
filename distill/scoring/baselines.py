"""Baselines without a network: rows of the same table that show what the others are worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill.config import ForestConfig
from distill.data.prepare import ImageData
from distill.data.store import Split

TAKEN = 256  # images in memory at once


def random_forest_probs(data: ImageData, config: ForestConfig, seed: int) -> NDArray[np.float64]:
    """Probabilities `(n, classes)` of a random forest on the test split.

    It is trained on the training split's pixels, averaged down to `config.size` per side. Where
    labels are many, each leaf answers for all of them.
    """
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(config.trees, n_jobs=-1, random_state=seed)
    forest.fit(small_pixels(data.train, config.size), data.train.labels)
    probs = forest.predict_proba(small_pixels(data.test, config.size))
    if data.task == "multi":
        # One array per label, a column for each of 0 and 1 that the training labels have.
        probs = np.stack(
            [
                (columns * (values == 1)).sum(axis=1)
                for columns, values in zip(probs, forest.classes_, strict=True)
            ],
            axis=1,
        )
    result: NDArray[np.float64] = probs
    return result


def small_pixels(split: Split, size: int) -> NDArray[np.uint8]:
    """Images of a split averaged to `size` x `size` and flattened, uint8 `(n, size * size * 3)`."""
    from PIL import Image

    count = len(split.labels)
    some = (np.arange(i, min(i + TAKEN, count)) for i in range(0, count, TAKEN))
    shrunk = [
        np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX))
        for ids in some
        for pixels in split.take(ids)
    ]
    return np.stack(shrunk).reshape(count, -1)
