"""How accuracy falls with the distance from the images that a model was trained on.

A test split that is drawn from the same folder flatters: pictures taken elsewhere are farther from
what was trained on than most of it. Its own farthest quarter shows which way that goes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.scoring.metrics import Probs, score
from distill.scoring.tasks import TINY

NEIGHBOURS = 3
QUARTERS = 4
FEWEST = 10  # groups in a quarter
CHUNK = 256  # images that are compared with all training images at a time
Groups = NDArray[np.str_]


def distances(
    features: NDArray[np.float32], groups: Groups, known: NDArray[np.float32], known_groups: Groups
) -> NDArray[np.float64]:
    """Mean cosine distance `(n,)` of each image to the nearest known images of other groups.

    Args:
        features, known: Rows of length 1, `(n, d)` and `(m, d)`.
        groups, known_groups: Name of the group of each, of copies and as the source says.
    """
    _, numbers = np.unique(np.concatenate([groups, known_groups]), return_inverse=True)
    own, theirs = numbers[: len(groups)], numbers[len(groups) :]
    count = min(NEIGHBOURS, len(known))
    found = []
    for start in range(0, len(features), CHUNK):
        chunk = slice(start, start + CHUNK)
        similar = features[chunk] @ known.T
        similar[own[chunk, None] == theirs[None]] = -1.0
        nearest = np.partition(similar, -count, axis=1)[:, -count:]
        found.append(1.0 - nearest.mean(axis=1, dtype=np.float64))
    return np.concatenate(found)


class Quarter(NamedTuple):
    """A quarter of the test images, by distance.

    Attributes:
        distance: The largest in it.
        accuracy: Share of right answers, or of right labels, in percent.
        low, high: Its 95 % interval, exact (Clopper and Pearson), a group counting once.
        ece: Expected calibration error, in percent.
    """

    n: int
    distance: float
    accuracy: float
    low: float
    high: float
    ece: float


def by_distance(
    away: NDArray[np.float64],
    shares: NDArray[Any],
    groups: Groups,
    probs: Probs,
    labels: NDArray[np.int64],
    names: tuple[str, ...],
) -> list[Quarter]:
    """The quarters of the test images, the nearest first; empty of fewer than 40 groups.

    Args:
        away: Distance of each image, `(n,)`.
        shares: Whether its answer is right, or the share of its labels that are, `(n,)`.
        groups: The group of each image.
        probs, labels, names: As `scoring.metrics.score` takes them.
    """
    if len(np.unique(groups)) < FEWEST * QUARTERS:
        return []
    quarters = []
    for rows in np.array_split(np.argsort(away, kind="stable"), QUARTERS):
        low, high = interval(float(shares[rows].mean()), len(np.unique(groups[rows])))
        quarters.append(
            Quarter(
                len(rows),
                float(away[rows].max()),
                100.0 * float(shares[rows].mean()),
                100.0 * low,
                100.0 * high,
                score(probs[rows], labels[rows], names)["ece"],
            )
        )
    return quarters


def interval(share: float, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of so many draws (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    hits = share * count
    low = beta.ppf(0.025, hits, count - hits + 1.0) if hits > TINY else 0.0
    high = beta.ppf(0.975, hits + 1.0, count - hits) if count - hits > TINY else 1.0
    return float(low), float(high)


def least_loss(near: Quarter, far: Quarter) -> float:
    """Points that the farthest quarter is below the nearest at least, with 95 % confidence.

    Newcombe, 1998, method 10, of the difference of two shares.
    """
    lost = near.accuracy - far.accuracy
    return lost - float(np.hypot(near.accuracy - near.low, far.high - far.accuracy))
